"""Instability of training: detection, warmup and gradient clipping."""
