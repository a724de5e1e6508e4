"""Models from a store: its versions are mirrored into a folder, which the worker serves as its repository."""
