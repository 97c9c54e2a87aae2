"""World models: vision V, memory M and controller C, and worlds that are dreamt with them."""

from rlgen.agents.world_model.controller import Controller, Evolution, evolve, maximise
from rlgen.agents.world_model.dream import Dream
from rlgen.agents.world_model.dyna import Dyna, TabularModel
from rlgen.agents.world_model.exploring import Untried, Wandering
from rlgen.agents.world_model.memory import Memory
from rlgen.agents.world_model.model import WorldModel
from rlgen.agents.world_model.planner import Planner
from rlgen.agents.world_model.recurrence import GRU, Attention, Memoryless
from rlgen.agents.world_model.rounds import ByEvolution, ByPlanning, ByPPO, Rounds
from rlgen.agents.world_model.vision import Vision
from rlgen.agents.world_model.watching import Pilot, Watched
