"""Training: the only package above the models that imports JAX."""
