"""From the best trials of a short study to longer training."""
