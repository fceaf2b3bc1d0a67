"""Scaling laws: base runs and cooldowns, the fit, and what makes it wrong."""
