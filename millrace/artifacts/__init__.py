"""What training hands over to serving: the model repository, manifests, vocabularies, image preprocessing."""
