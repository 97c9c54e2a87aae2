"""rlgen: reinforcement learning in which every part of an agent is a generative model."""

__version__ = "0.1.0"
