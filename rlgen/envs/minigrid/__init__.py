"""MiniGrid on tensors: read `cells.py` and `rules.py` first."""
