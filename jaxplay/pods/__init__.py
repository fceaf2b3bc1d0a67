"""Estimates for TPU topologies, without TPUs: memory, traffic, roofline."""
