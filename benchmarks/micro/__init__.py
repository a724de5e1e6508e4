"""Measurements of single steps, without the stack around them."""
