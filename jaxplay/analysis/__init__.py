"""Analysis: looks back at runs and studies; arrays in, Findings out."""
