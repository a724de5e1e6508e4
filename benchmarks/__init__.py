"""Measurements of speed and memory, of this server and of others."""
