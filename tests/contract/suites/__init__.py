"""Other servers' own test suites, run against this stack where their sources are at hand (see README.md)."""
