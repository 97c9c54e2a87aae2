"""Learning from demonstrations."""

from rlgen.agents.imitation import measures
from rlgen.agents.imitation.adversarial import GAIL
from rlgen.agents.imitation.airl import AIRL
from rlgen.agents.imitation.apprenticeship import Apprenticeship
from rlgen.agents.imitation.cloning import BC
from rlgen.agents.imitation.coded import Coded
from rlgen.agents.imitation.demonstrations import Demonstrations, Trajectory
from rlgen.agents.imitation.experts import (
    Expert,
    first_expert,
    routes_expert,
    shortest_paths_expert,
)
from rlgen.agents.imitation.infogail import InfoGAIL
from rlgen.agents.imitation.inverse import MaxEntIRL
from rlgen.agents.imitation.recording import record
