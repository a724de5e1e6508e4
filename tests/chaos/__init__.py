"""Breaking the running stack under load, with an account of every request."""
