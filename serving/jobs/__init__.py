"""Background jobs, as the API offers them: what arrives, what is shown, who watches, and what is counted."""
