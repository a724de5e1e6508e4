"""What several kinds of tests use: real processes, a load that keeps account, and models made on the spot."""
