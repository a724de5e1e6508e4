"""What a model's file shows without a run: how its graph computes, and whether rows stay apart in it."""
