"""Exploration: reward models that pay for what is new."""

from rlgen.agents.exploration.counts import HashCounts, TableCounts
from rlgen.agents.exploration.density import PseudoCounts, Surprise
