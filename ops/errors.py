"""What `millrace up` says when it gives up."""


class UpError(Exception):
    """Why the stack cannot be up, and what to do about it, on one line."""


class ExampleError(UpError):
    """A model does not answer the example in its own manifest."""
