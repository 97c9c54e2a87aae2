"""Exploration: reward models that pay for what is new."""

from rlgen.agents.exploration.codes import CodeCounts
from rlgen.agents.exploration.counts import HashCounts, TableCounts
from rlgen.agents.exploration.curiosity import Disagreement, DynamicsCuriosity
from rlgen.agents.exploration.density import PseudoCounts, Surprise
from rlgen.agents.exploration.distillation import RND
from rlgen.agents.exploration.icm import ICM
