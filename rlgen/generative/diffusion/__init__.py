"""Diffusion and score models: data noised step by step, and networks that find the way back."""

from rlgen.generative.diffusion.schedules import Cosine, Linear, Schedule
