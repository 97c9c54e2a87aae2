"""Worlds on tensors: thousands of copies a step, on one device. Read `world.py` first."""

from rlgen.envs import adapters, planner
from rlgen.envs.four_rooms import FourRooms
from rlgen.envs.minigrid.world import MiniGrid
from rlgen.envs.noisy_tv import NoisyTV
from rlgen.envs.open_world import OpenWorld
from rlgen.envs.plains import Plains
from rlgen.envs.tabular import MDP
from rlgen.envs.world import Step, TensorWorld, World
