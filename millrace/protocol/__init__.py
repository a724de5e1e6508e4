"""What the programs say to each other: tensors, messages, their codec, and the tree of errors."""
