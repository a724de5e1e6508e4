"""The steps in front of a graph: images to pixels, texts to tokens, rows of one length."""
