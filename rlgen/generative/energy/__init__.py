"""Models that are known by an energy, and the chains that sample from them."""

from rlgen.generative.energy.energy_model import EnergyModel
from rlgen.generative.energy.paths import Annealed, GeometricPath
from rlgen.generative.energy.rbm import RBM
from rlgen.generative.energy.samplers import MALA, Langevin, Sampler, hamiltonian, langevin, mala
