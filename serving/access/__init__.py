"""Who may do what: the rules for callers that change models, and the record of what they did."""
