"""Densities by the chain rule: p(x) = product over i of p(x_i | x_<i)."""
