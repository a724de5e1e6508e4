"""From a valid request to a block on the queue, and from a reply to the response."""
