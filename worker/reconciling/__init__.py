"""From what folders hold and operators want to what is loaded."""
