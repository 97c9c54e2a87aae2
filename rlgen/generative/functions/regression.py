"""Regression by a distribution over functions: diverse ones, all of which explain the data.

Notation: (x_i, y_i), N labelled examples; X, m unlabelled points; f_z, a function with code z.
"""

import math

import torch
from torch import Tensor

from rlgen.generative.functions.gaussian_process import GaussianProcess
from rlgen.generative.functions.vfunc import VFunc
from rlgen.generative.heads import FixedNormal
from rlgen.generative.model import GenerativeModel
from rlgen.generative.support import check_batch


class FunctionRegression(GenerativeModel):
    """Functions that explain data and are as diverse as a Gaussian process allows elsewhere.

    loss_i = -E_z log N(y_i; f_z(x_i), noise^2) - (1/N) E_X [E log GP(f at X) + H(f at X)]

    where X are points drawn uniformly from a box, and the entropy is `VFunc.entropy_bound`. The
    bracket is minus the divergence of the functions from the process at X, so the functions
    approach the process's posterior. (The sum of the losses would bound minus the log evidence if
    X held all labelled points too; as it is, the functions are slightly too sure of those.)
    Without a process only the first term is left: then the functions agree everywhere, also where
    no data says that they should.

    One x is a number y, and its context is the point it was measured at.

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106
        | Functional variational Bayesian neural networks (Sun et al., 2019)
        | https://arxiv.org/abs/1903.05779

    Args:
        functions: what is trained; its event shape (m,) says how many unlabelled points at a time.
        process: the prior over functions at m points, whose noise should be that of `functions`; it
            is not trained. None leaves out both prior and entropy.
        examples: N, how many labelled examples there are.
        low: of the box in all inputs.
        high: of the box in all inputs.
        noise: the standard deviation of y around f(x).
        draws: functions for each example and step.

    Example:
        >>> import torch
        >>> from rlgen.generative import FunctionRegression, GaussianProcess, VFunc, fit, functions
        >>> prior = functions.StandardNormal(4)
        >>> family = VFunc(16, functions.FunctionMLP(4), prior=prior)
        >>> model = FunctionRegression(family, process=GaussianProcess(16), examples=6, low=-3,
        ...                            high=3)
        >>> x = torch.linspace(-2, 2, 6)[:, None]
        >>> history = fit(model, torch.sin(x[:, 0]), x, steps=3)
        >>> mean, std = model.predict(torch.linspace(-3, 3, 50)[:, None])
        >>> mean.shape, std.shape
        (torch.Size([50]), torch.Size([50]))
    """

    def __init__(
        self,
        functions: VFunc,
        *,
        process: GaussianProcess | None,
        examples: int,
        low: float = -1.0,
        high: float = 1.0,
        noise: float = 0.1,
        draws: int = 4,
    ) -> None:
        assert functions.context_shape is not None
        super().__init__((), functions.context_shape[1:])
        if len(functions.event_shape) != 1:
            shape = tuple(functions.event_shape)
            raise ValueError(f"'functions' must give one number at a point, got values {shape}")
        if not isinstance(functions.head, FixedNormal):
            name = type(functions.head).__name__
            raise ValueError(f"'functions' must have the head FixedNormal, got {name}")
        if examples < 1 or draws < 1:
            raise ValueError(f"'examples' and 'draws' must be positive, got {examples}, {draws}")
        if not low < high:
            raise ValueError(f"'low' must be less than 'high', got {low} and {high}")
        if noise <= 0:
            raise ValueError(f"'noise' must be positive, got {noise}")
        if process is not None and process.context_shape != functions.context_shape:
            raise ValueError("'process' must be over the same points as 'functions'")
        self.functions = functions
        self.process = None if process is None else process.requires_grad_(False)
        self.examples = examples
        self.low, self.high = low, high
        self.noise = noise
        self.draws = draws

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        assert context is not None
        z = self.functions.prior.sample(torch.Size([len(x), self.draws])).flatten(0, 1)
        at = context.repeat_interleave(self.draws, 0)[:, None]
        error = self.functions.function(z, at).flatten(1) - x.repeat_interleave(self.draws)[:, None]
        loss = 0.5 * (error / self.noise).square() + math.log(self.noise * math.sqrt(2 * math.pi))
        if self.process is not None:
            loss = loss - self._entropy_and_prior(z)[:, None] / self.examples
        each: Tensor = loss.reshape(len(x), -1).mean(1)
        return each

    @torch.no_grad()
    def predict(
        self, points: Tensor, *, draws: int = 512, generator: int | torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of f at points, without the noise of y.

        Args:
            points: with shape (k, *inputs).
            draws: how many functions they are taken over.
            generator: a seed or a `torch.Generator`.

        Returns:
            Two tensors with shape (k,).
        """
        assert self.context_shape is not None
        check_batch("points", points, self.context_shape)
        if draws < 2:
            raise ValueError(f"'draws' must be at least 2, got {draws}")
        values = self.functions.functions(draws, generator=generator)(points)
        return values.mean(0), values.std(0)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        assert context is not None
        f = self.functions.functions(n)
        values: Tensor = self.functions.function(f.z, context[:, None]).reshape(n)
        return values + self.noise * torch.randn_like(values)

    def _entropy_and_prior(self, z: Tensor) -> Tensor:
        """log GP(f) + the bound of H(f) for f with code z at fresh points, with shape (draws,)."""
        assert self.process is not None and self.process.context_shape is not None
        points = torch.rand((len(z), *self.process.context_shape), dtype=z.dtype, device=z.device)
        points = self.low + (self.high - self.low) * points
        given = self.functions.decode(z, points)
        f = given.mean + given.stddev * torch.randn_like(given.mean)  # rsample defies torch.func
        information = self.functions.information_of(z, f, points)
        log_prob: Tensor = self.process.log_prob(f, points)
        return log_prob + information + self.functions.noise_entropy
