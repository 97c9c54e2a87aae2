"""Measures of models and of samples, each labelled with what it is."""

from rlgen.generative.metrics.annealed import AnnealedEstimate, ais, ais_log_likelihood
from rlgen.generative.metrics.divergences import js_divergence, kl_divergence, total_variation
from rlgen.generative.metrics.likelihood import NegativeLogLikelihood, bits_per_dim, held_out
from rlgen.generative.metrics.modes import ModesCovered
from rlgen.generative.metrics.transport import Transport, sinkhorn, wasserstein1
from rlgen.generative.metrics.two_sample import PermutationTest, mmd2, mmd_test
