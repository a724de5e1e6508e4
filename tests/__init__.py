"""The tests, by what is real in them; the cheapest run first."""
