"""Measures of models and of samples, each labelled with what it is."""

from rlgen.generative.metrics.divergences import js_divergence, kl_divergence, total_variation
from rlgen.generative.metrics.likelihood import NegativeLogLikelihood, bits_per_dim, held_out
