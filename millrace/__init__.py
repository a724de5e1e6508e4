"""The contracts between Millrace's programs: what is said, what training hands over, how messages travel."""

from importlib.metadata import version

__version__ = version("millrace")
