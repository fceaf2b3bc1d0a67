"""Which batch size: what fits, what is fast, what reaches a target first."""
