"""Learners, each readable as its paper's algorithm."""
