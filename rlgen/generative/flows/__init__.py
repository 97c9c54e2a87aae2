"""Densities by change of variables."""

from rlgen.generative.flows.autoregressive import IAF, MAF, MaskedAffine
from rlgen.generative.flows.coupling import AffineCoupling, RealNVP
from rlgen.generative.flows.dequantise import Dequantised
from rlgen.generative.flows.fixed import Logit, Permutation, Reverse, Squeeze, Standardise
from rlgen.generative.flows.flow import Flow, Inverse, Transform
