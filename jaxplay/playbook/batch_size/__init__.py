"""Choosing the batch size: memory, throughput, and steps to a target."""
