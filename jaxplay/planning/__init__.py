"""Planning: batch size, steps, stability, scaling laws, the longest run."""
