"""VFunc: distributions over functions, each known by its values at a few points.

Notation: f, the values of one function at m points X; z, its code; p(f | z, X), a network's values
at X under noise of a fixed amount; q(z | f), how functions are compared.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from rlgen.generative.functions.comparisons import Difference, Direct, Likelihood, Scoring
from rlgen.generative.functions.noise import noise_entropy
from rlgen.generative.functions.priors import Prior, StandardNormal
from rlgen.generative.heads import FixedNormal, Head
from rlgen.generative.model import GenerativeModel, Shape, as_shape, evaluating
from rlgen.seeding import drawing_from

# values that the bounds compute at a time
_DECODED = 2**20


class VFunc(GenerativeModel):
    """Functions with a latent code, p(f | X) = integral of p(z) p(f | z, X), in two uses.

    Fitted to functions, it is a variational autoencoder whose x are the values of a function at m
    points and whose context are the points:

        loss = -elbo,    elbo = E_q log p(f | z, X) - KL(q(z | f, X) || p(z))

    with the divergence once for a function, however many points there are. And it bounds from
    below how diverse its own functions are, for others to maximise:

        H(f) = I(f; z) + H(f | z),  H(f | z) the entropy of the noise, a constant
        I(f; z) >= H(z) + E log q(z | f)                           `information`
        I(f; z) >= log k + E log softmax over z_1..z_k at z_1      `information(candidates=k)`

    over z ~ p(z), f ~ p(f | z, X). The second is at most log k, and compares the z that made f with
    k - 1 other draws. Gradients flow through f into the function, and into the comparison.
    Bounds at different sets of points are bounds of different quantities.

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106
        | Representation learning with contrastive predictive coding (van den Oord et al., 2018)
        | https://arxiv.org/abs/1807.03748

    Args:
        event_shape: of the values, (m,) or (m, *outputs); an int means m scalars.
        function: (z (B, *shape of z), points (B, m, *inputs)) -> (B, m, outputs): `FunctionMLP`,
            or any module that takes the same.
        inputs: the shape of one point; an int means a vector. The context has shape (m, *inputs).
        prior: p(z); StandardNormal(8) unless given.
        comparison: q(z | f); unless given, the exact `Likelihood` where z is a symbol, `Difference`
            for a normal prior under normal noise, and else `Direct`, which costs less. One that
            gives scores, such as `Similarity`, is enough for `information(candidates=k)`, and for
            all else where z is a symbol.
        head: the noise; its amount must not depend on the outputs, as this would be trained, and
            noise maximises the entropy of functions without any use of z.

    Example:
        >>> import torch
        >>> from rlgen.generative import VFunc, fit, functions
        >>> points = torch.linspace(-1, 1, 5)[:, None].expand(256, 5, 1)
        >>> f = torch.randn(256, 1) * points.squeeze(-1) + 0.1 * torch.randn(256, 5)
        >>> prior = functions.StandardNormal(1)
        >>> model = VFunc(5, functions.FunctionMLP(1), prior=prior)
        >>> history = fit(model, f, points, steps=20)
        >>> model.elbo(f, points).shape
        torch.Size([256])
        >>> model.entropy_bound(points).shape
        torch.Size([256])
        >>> model.functions(3)(torch.linspace(-2, 2, 100)[:, None]).shape
        torch.Size([3, 100])
    """

    def __init__(
        self,
        event_shape: Shape,
        function: nn.Module,
        *,
        inputs: Shape = 1,
        prior: Prior | None = None,
        comparison: nn.Module | None = None,
        head: Head = FixedNormal(0.1),  # noqa: B008
    ) -> None:
        event_shape = as_shape("event_shape", event_shape)
        if not event_shape:
            raise ValueError("'event_shape' must begin with the number of points, got ()")
        input_shape = as_shape("inputs", inputs)
        super().__init__(event_shape, (event_shape[0], *input_shape))
        self.head = head
        self.support = head.support
        self.noise_entropy = noise_entropy(head, tuple(self.event_shape))
        self.latents = StandardNormal() if prior is None else prior
        self.function = function
        self.comparison = self._usual_comparison() if comparison is None else comparison

    @property
    def prior(self) -> Distribution:
        """p(z)."""
        return self.latents.distribution()

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.elbo(x, context)

    def elbo(self, x: Tensor, context: Tensor | None = None, samples: int = 1) -> Tensor:
        """A lower bound of log p(f | X) in expectation over the draws of z.

        samples = 1:  log p(f | z) - KL, with one z ~ q, or the mean over all z that are symbols
        samples = K:  log (1/K) sum over k of p(f | z_k) p(z_k) / q(z_k | f), closer for larger K

        Args:
            x: values with shape (B, *event_shape).
            context: the points, with shape (B, m, *inputs).
            samples: K.

        Returns:
            Nats with shape (B,).
        """
        x, points = self._check(x, context)
        if samples < 1:
            raise ValueError(f"'samples' must be positive, got {samples}")
        q = self._encode(x, points)
        if samples > 1:
            at_once = max(1, _DECODED // x.numel())
            parts = [
                self._log_weights(x, points, q, min(at_once, samples - done))
                for done in range(0, samples, at_once)
            ]
            return torch.cat(parts).logsumexp(0) - math.log(samples)
        symbols = self.latents.symbols
        if symbols is None:
            return self._log_likelihood(x, points, q.rsample()[None])[0] - self.latents.kl(q)
        every = symbols[:, None].expand(-1, len(x))
        weighted = q.log_prob(every).exp() * self._log_likelihood(x, points, every)
        return weighted.sum(0) - self.latents.kl(q)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """q(z | f), for values x at the points `context`."""
        return self._encode(*self._check(x, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """p(f | z, X) for codes with shape (B, *shape of z)."""
        z = self.latents.support.check("z", z, self.latents.shape, self.dtype)
        return self._decode(z, cast(Tensor, self.check_context(z.shape[0], context)))

    def information(
        self, points: Tensor, n: int | None = None, *, candidates: int | None = None
    ) -> Tensor:
        """A lower bound of I(f; z) at sets of points, in expectation over the draws of z and f.

        Args:
            points: sets of points, each for one draw, with shape (B, m, *inputs); or one set with
                shape (m, *inputs) for all of `n` draws. Then they are each other's candidates, so
                their functions are computed once.
            n: how many draws, for one set of points.
            candidates: k for the bound with log k; None for the one with H(z).

        Returns:
            Nats for each draw, with shape (B,) or (n,); the bound is their mean.
        """
        points, draws = self._point_sets(points, n)
        z = self.prior.sample(torch.Size([draws]))
        f = self._decode(z, points.expand(draws, *points.shape[1:])).rsample()
        return self._information(z, f, points, candidates)

    def information_of(
        self, z: Tensor, f: Tensor, points: Tensor, *, candidates: int | None = None
    ) -> Tensor:
        """The terms of `information` for draws that were made elsewhere: z ~ p(z), f ~ p(f | z, X).

        Args:
            z: codes with shape (B, *shape of z).
            f: values with shape (B, *event_shape).
            points: with shape (B, m, *inputs), or (m, *inputs) for all.
            candidates: as in `information`.

        Returns:
            Nats for each draw, with shape (B,).
        """
        z = self.latents.support.check("z", z, self.latents.shape, self.dtype)
        f = self.support.check("f", f, self.event_shape, self.dtype)
        shared = isinstance(points, Tensor) and points.shape == self.context_shape
        points, draws = self._point_sets(points, len(z) if shared else None)
        if not len(z) == len(f) == draws:
            raise ValueError(f"'z' and 'f' must hold {draws} draws, got {len(z)} and {len(f)}")
        return self._information(z, f, points, candidates)

    def entropy_bound(
        self, points: Tensor, n: int | None = None, *, candidates: int | None = None
    ) -> Tensor:
        """A lower bound of H(f) at sets of points: `information` + H(f | z)."""
        return self.information(points, n, candidates=candidates) + self.noise_entropy

    @torch.no_grad()
    def functions(self, n: int, *, generator: int | torch.Generator | None = None) -> "Functions":
        """`n` functions without noise, to be evaluated anywhere."""
        if n < 1:
            raise ValueError(f"'n' must be positive, got {n}")
        with drawing_from(generator):
            z = self.prior.sample(torch.Size([n]))
        return Functions(self, z)

    def _usual_comparison(self) -> nn.Module:
        assert self.context_shape is not None
        if self.latents.symbols is not None:
            return Likelihood(self.head)
        inputs, outputs = tuple(self.context_shape[1:]), math.prod(self.event_shape[1:])
        if isinstance(self.latents, StandardNormal) and isinstance(self.head, FixedNormal):
            (latent,) = self.latents.shape
            return Difference(latent, inputs=inputs, outputs=outputs, scale=self.head.scale)
        return Direct(self.latents, inputs=inputs, outputs=outputs)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        z = self.prior.sample(torch.Size([n]))
        x: Tensor = self._decode(z, cast(Tensor, context)).sample()
        return x

    def _check(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x, context = self.check(x, context)
        return x, cast(Tensor, context)

    def _encode(self, x: Tensor, points: Tensor) -> Distribution:
        if not isinstance(self.comparison, Scoring):
            q: Distribution = self.comparison(x, points, self.function)
            return q
        symbols = self.latents.symbols
        if symbols is None:
            name = type(self.comparison).__name__
            raise ValueError(
                f"'comparison' must give a distribution over z, and {name} only scores "
                "candidates: it serves `information(candidates=k)`"
            )
        every = symbols.expand(len(x), -1)
        scores = self.comparison(x, points, self.function, every)
        return self.latents.posterior(scores + self.prior.log_prob(every))

    def _decode(self, z: Tensor, points: Tensor) -> Distribution:
        outputs: Tensor = self.function(z, points)
        wanted = self.head.size(tuple(self.event_shape))
        if outputs.shape[:2] != points.shape[:2] or outputs[0].numel() != wanted:
            raise ValueError(
                f"'function' must give (B, m, outputs) with {wanted} numbers for each of the "
                f"{len(points)} sets of points, got shape {tuple(outputs.shape)}"
            )
        return self.head(outputs.flatten(1), tuple(self.event_shape))

    def _log_likelihood(self, x: Tensor, points: Tensor, z: Tensor) -> Tensor:
        """log p(f | z, X) for codes with shape (K, B, *shape of z), with shape (K, B)."""
        x, points = (t.expand(len(z), *t.shape).flatten(0, 1) for t in (x, points))
        log_prob: Tensor = self._decode(z.flatten(0, 1), points).log_prob(x)
        return log_prob.reshape(z.shape[:2])

    def _log_weights(self, x: Tensor, points: Tensor, q: Distribution, samples: int) -> Tensor:
        """log p(f | z) p(z) / q(z | f) for fresh z ~ q, with shape (samples, B)."""
        shape = torch.Size([samples])
        z = q.rsample(shape) if q.has_rsample else q.sample(shape)
        to_posterior: Tensor = self.prior.log_prob(z) - q.log_prob(z)
        return self._log_likelihood(x, points, z) + to_posterior

    def _point_sets(self, points: Tensor, n: int | None) -> tuple[Tensor, int]:
        """Points with a leading dimension, which is 1 if all draws share them; how many draws."""
        shared = isinstance(points, Tensor) and points.shape == self.context_shape
        if shared == (n is None) or (n is not None and n < 1):
            raise ValueError(
                f"'n' must be given, and positive, for one set of points only, got {n}"
            )
        if shared:
            points = points[None]
        checked = cast(Tensor, self.check_context(len(points), points))
        return checked, len(checked) if n is None else n

    def _information(self, z: Tensor, f: Tensor, points: Tensor, candidates: int | None) -> Tensor:
        if candidates is None:
            q = self._encode(f, points.expand(len(f), *points.shape[1:]))
            log_prob: Tensor = q.log_prob(z)
            return log_prob + self.latents.entropy
        if candidates < 2:
            raise ValueError(f"'candidates' must be at least 2, got {candidates}")
        scores = self._candidate_scores(f, points, z, candidates)
        return math.log(candidates) + scores[:, 0] - scores.logsumexp(1)

    def _candidate_scores(self, f: Tensor, points: Tensor, z: Tensor, candidates: int) -> Tensor:
        """Scores of k candidates for each f, the first of which made it, with shape (B, k)."""
        draws = len(f)
        if len(points) == draws:
            others = self.prior.sample(torch.Size([draws, candidates - 1]))
            return self._scores(f, points, torch.cat([z[:, None], others], dim=1))
        pool = z
        if candidates > draws:
            pool = torch.cat([z, self.prior.sample(torch.Size([candidates - draws]))])
        among = torch.arange(candidates, device=f.device)
        index = (torch.arange(draws, device=f.device)[:, None] + among) % len(pool)
        return self._scores(f, points, pool[None]).gather(1, index)

    def _scores(self, f: Tensor, points: Tensor, z: Tensor) -> Tensor:
        """How well each candidate z fits f; for a posterior, log q(z | f) - log p(z)."""
        if isinstance(self.comparison, Scoring):
            given: Tensor = self.comparison(f, points, self.function, z)
            return given
        q = self._encode(f, points.expand(len(f), *points.shape[1:]))
        each = z.expand(len(f), *z.shape[1:]).transpose(0, 1)
        scores = q.log_prob(each) - self.prior.log_prob(each)
        return scores.T


class Functions:
    """Functions that were drawn once, to be evaluated at any points.

    Attributes:
        z: their codes, with shape (n, *shape of z).
    """

    def __init__(self, model: VFunc, z: Tensor) -> None:
        self.model = model
        self.z = z

    def __call__(self, points: Tensor) -> Tensor:
        """Their values at the same points.

        Args:
            points: with shape (k, *inputs), for any k.

        Returns:
            The function's outputs with shape (n, k, *outputs): before any noise.
        """
        with evaluating(self.model):
            values: Tensor = self.model.function(self.z, points.expand(len(self.z), *points.shape))
        return values.reshape(*values.shape[:2], *self._outputs(values))

    def between(self, steps: int) -> "Functions":
        """`steps` functions on the straight line in z from the first to the last, both included."""
        return Functions(self.model, line(self.z, steps))

    def _outputs(self, values: Tensor) -> tuple[int, ...]:
        """The shape of one value, unless the head needs more numbers than that."""
        wanted = tuple(self.model.event_shape[1:])
        return wanted if math.prod(wanted) == values.shape[2] else (values.shape[2],)


def line(z: Tensor, steps: int) -> Tensor:
    """`steps` points on the straight line from the first row of z to the last, both included."""
    if not z.is_floating_point():
        raise ValueError("symbols have nothing between them")
    if steps < 2:
        raise ValueError(f"'steps' must be at least 2, got {steps}")
    t = torch.linspace(0.0, 1.0, steps, dtype=z.dtype, device=z.device)
    return torch.lerp(z[:1], z[-1:], t[:, None])
