"""Agents: generative models that meet worlds."""

from rlgen.agents import exploration, imitation, planning
from rlgen.agents.learners.ppo import PPO
from rlgen.agents.learners.reinforce import REINFORCE
from rlgen.agents.learners.trpo import TRPO
from rlgen.agents.policy import ActorCritic, Policy
from rlgen.agents.reward_model import RewardModel, Stream
from rlgen.agents.transitions import Transitions
from rlgen.agents.vfunc import VFunc
