"""How many steps to train."""
