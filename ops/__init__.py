"""What an operator runs: the supervisor of `millrace up`, and a look at dead letters."""
