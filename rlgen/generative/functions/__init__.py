"""Models of functions: each is known by its values at a few points."""

from rlgen.generative.functions.comparisons import (
    Difference,
    Direct,
    Encoding,
    Likelihood,
    Scoring,
    Similarity,
)
from rlgen.generative.functions.function_nets import FunctionMLP, FunctionTable
from rlgen.generative.functions.noise import BitFlip
from rlgen.generative.functions.priors import Prior, StandardNormal, UniformSymbols
