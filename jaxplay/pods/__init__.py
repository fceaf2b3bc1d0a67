"""Estimates for TPU topologies, without TPUs: memory, traffic, roofline."""

HERE = "here"  # As a topology: the devices of this process.
