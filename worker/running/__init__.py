"""What an instance does: it takes blocks, makes batches of them, runs them, and answers."""
