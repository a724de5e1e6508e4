"""The contracts between Millrace's programs: what is said, what training hands over, how messages travel."""

__version__ = "0.1.0"
