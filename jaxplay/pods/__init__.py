"""Programs on TPUs that are not here: memory, traffic, roofline."""
