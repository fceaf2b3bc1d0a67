"""Whether training is unstable, and which fix costs least; clipping."""
