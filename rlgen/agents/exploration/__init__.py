"""Exploration: reward models that pay for what is new."""
