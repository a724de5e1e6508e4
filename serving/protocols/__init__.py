"""What callers speak: each protocol turns bytes into what is asked of a model, and outputs into bytes."""
