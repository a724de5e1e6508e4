"""What the API counts, under its own names and under those of its peers."""
