"""How messages travel: one queue with two implementations, on Redis and in memory."""
