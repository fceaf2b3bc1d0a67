"""Studies: which trials to run, in what order, and running them."""
