"""Scaling laws: ladders of base runs and cooldowns, the fit, and its checks."""
