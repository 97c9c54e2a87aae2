"""Diffusion and score models: data noised step by step, and networks that find the way back."""

from rlgen.generative.diffusion import score_matching
from rlgen.generative.diffusion.ode import Adaptive, RungeKutta, Solver
from rlgen.generative.diffusion.schedules import Cosine, Linear, Schedule
from rlgen.generative.diffusion.sde import SDE, VE, VP
