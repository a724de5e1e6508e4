"""From a version's folder to a model that may serve: what is declared, what its first runs show."""
