"""The worker: takes requests from the queue in batches, runs a backend, replies."""
