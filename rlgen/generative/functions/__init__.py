"""Models of functions: each is known by its values at a few points."""
