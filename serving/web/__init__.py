"""The Flask application and its routes: everything but the hot verbs."""
