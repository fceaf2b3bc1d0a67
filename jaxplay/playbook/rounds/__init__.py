"""From the best trial of a short study to longer training."""
