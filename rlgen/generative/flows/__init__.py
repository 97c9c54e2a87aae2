"""Densities by change of variables."""
