"""What a GPU brings: answers beside the CPU's, batches by themselves, and the whole stack."""
