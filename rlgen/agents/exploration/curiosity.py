"""Curiosity about dynamics: what a step led to, against what a model of the world expected."""

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from rlgen.agents.actions import action_numbers, action_width
from rlgen.agents.exploration.memory import Rehearsal, as_data
from rlgen.agents.exploration.networks import ForwardModels, NetworkBonus
from rlgen.agents.standardised import Standardised
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable
from rlgen.generative import Bound, Density, GenerativeModel, Trainer, unchecked
from rlgen.generative.catalogue import require
from rlgen.generative.model import Encoder, evaluating
from rlgen.generative.support import Real, Symbols
from rlgen.seeding import drawing_from, mix

Form = Literal["excess", "surprise", "error"]

_SAMPLES = 8  # of the model, where it does not say its mean or its entropy


class DynamicsCuriosity(Configurable):
    """Pays for what a model of the dynamics, which learns all the while, did not expect.

        surprise   -log p(s' | s, a)
        excess     -log p(s' | s, a) - E[-log p(y | s, a)],  y as the model itself draws it
        error      mean over features of (E[y] - s')^2

    s and s' are features of what was seen and of what the step led to. "error" and "surprise" never
    tire of noise. "excess" does: a model that knows how noisy its predictions are expects as much
    surprise as noise brings. It is negative where the model expects more than comes, as one does
    that has seen nothing yet. Scales that may shrink to nothing make any mistake infinitely
    surprising, so give the head of such a model the least error worth caring for, as below.

    References:
        Juergen Schmidhuber. A possibility for implementing curiosity and boredom in model-building
        neural controllers, 1991. https://doi.org/10.7551/mitpress/3115.003.0030
        Bradly Stadie, Sergey Levine and Pieter Abbeel. Incentivizing Exploration In Reinforcement
        Learning With Deep Predictive Models, 2015. https://arxiv.org/abs/1507.00814

    Args:
        dynamics: p(s' | s, a), any density with the context (F + A,): F features of s, then A
            numbers for the action, one-hot if it is discrete. For "surprise" a bound will do. It
            learns in place.
        features: what s is: an `Encoder`, whose mean is taken and which is not trained here, any
            function of observations, or None for the observations themselves.
        form: what is paid for.
        lr: of the dynamics' Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those, half of it fresh.
        memory: steps kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> import torch
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.exploration import DynamicsCuriosity
        >>> from rlgen.envs import FourRooms
        >>> from rlgen.generative import MixtureDensityNetwork, heads
        >>> dynamics = MixtureDensityNetwork(104, context_shape=108, head=heads.Normal(0.05))
        >>> models = {"curiosity": DynamicsCuriosity(dynamics)}
        >>> agent = PPO(FourRooms(64, seed=0), reward_models=models)
        >>> agent = agent.learn(64 * 32, progress=False)
    """

    def __init__(
        self,
        dynamics: GenerativeModel,
        features: Encoder | Callable[[Tensor], Tensor] | None = None,
        *,
        form: Form = "excess",
        lr: float = 1e-3,
        updates: int = 16,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        if form not in get_args(Form):
            raise ValueError(f"'form' must be one of {', '.join(get_args(Form))}, got {form!r}")
        require(dynamics, (Density, Bound) if form == "surprise" else Density, type(self).__name__)
        if form == "error" and isinstance(dynamics.support, Symbols):
            raise ValueError("symbols have no distance from each other: use form='surprise'")
        self.dynamics, self.features, self.form, self.seed = dynamics, features, form, seed
        self.actions = _width_for_actions(dynamics, features, type(self).__name__)
        self.trainer = Trainer(dynamics, lr=lr, seed=seed)
        self.rehearsal = Rehearsal(updates=updates, batch_size=batch_size, memory=memory, seed=seed)

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        x, context = self.data(t.obs, t.action, t.next_obs)
        with evaluating(self.dynamics), drawing_from(self.seed), unchecked():
            return self._score(x, context)

    def update(self, t: Transitions) -> dict[str, float]:
        """Keep the steps in memory, and take some gradient steps on them and on earlier ones."""
        loss = None
        with unchecked():
            for batch in self.rehearsal.batches(t.obs, t.action, t.next_obs):
                loss = self.trainer.step(*self.data(*batch))["loss"]
        return {} if loss is None else {"nats": float(loss)}

    def data(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Steps as the dynamics' x and context."""
        dtype = self.dynamics.dtype
        state = self._encoded(obs).flatten(1).to(dtype)
        numbers = action_numbers(action, self.actions, dtype)
        context = torch.cat([state, numbers], dim=1)
        return as_data(self._encoded(next_obs), self.dynamics), context

    def state_dict(self) -> dict[str, Any]:
        state = {"trainer": self.trainer.state_dict(), "rehearsal": self.rehearsal.state_dict()}
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # or optimisers would share what they change in place
        self.trainer.load_state_dict(state["trainer"])
        self.rehearsal.load_state_dict(state["rehearsal"])

    @torch.no_grad()
    def _encoded(self, obs: Tensor) -> Tensor:
        return obs if self.features is None else encoded(self.features, obs)

    def _score(self, x: Tensor, context: Tensor) -> Tensor:
        if self.form == "error":
            error: Tensor = (self._mean(context) - x).square()
            return error.flatten(1).mean(1)
        if isinstance(self.dynamics, Density):
            surprise = -self.dynamics.log_prob(x, context)
        else:
            assert isinstance(self.dynamics, Bound)
            return -self.dynamics.elbo(x, context)
        return surprise if self.form == "surprise" else surprise - self._entropy(context)

    def _mean(self, context: Tensor) -> Tensor:
        if isinstance(self.dynamics, _Conditional):
            p = self.dynamics.distribution(context)
            if _innermost(p).mean is not Distribution.mean:
                return p.mean
        return self._samples(context)[0].mean(0)

    def _entropy(self, context: Tensor) -> Tensor:
        """What -log p will be, as the model expects."""
        if isinstance(self.dynamics, _Conditional):
            p = self.dynamics.distribution(context)
            if _innermost(p).entropy is not Distribution.entropy:
                entropy: Tensor = p.entropy()
                return entropy
            drawn: Tensor = p.log_prob(p.sample(torch.Size([_SAMPLES])))
            return -drawn.mean(0)
        assert isinstance(self.dynamics, Density)
        x, contexts = self._samples(context)
        surprise: Tensor = -self.dynamics.log_prob(x.flatten(0, 1), contexts)
        mean: Tensor = surprise.unflatten(0, (_SAMPLES, -1)).mean(0)
        return mean

    def _samples(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Some of s' for each context, (samples, B, *event_shape), and the contexts repeated."""
        contexts = context.repeat(_SAMPLES, 1)
        x = self.dynamics.sample(len(contexts), contexts)
        return x.unflatten(0, (_SAMPLES, -1)), contexts


class Disagreement(NetworkBonus):
    """Pays for what the members of an ensemble predict differently.

        bonus = mean over features of Var over members m of f_m(s, a)

    Members learn the mean of s' each from its own bootstrap of the steps. About noise they agree in
    the end, as all find the same mean. s is the observation itself, and of a picture what a
    fixed random network sees in it.

    References:
        Deepak Pathak, Dhiraj Gandhi and Abhinav Gupta. Self-Supervised Exploration via
        Disagreement, 2019. https://arxiv.org/abs/1906.04161

    Args:
        observation_space: a Box or a Dict.
        action_space: Discrete or Box.
        members: of the ensemble.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: of those, half of it fresh.
        memory: steps kept to learn from, a uniform sample of all.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.exploration import Disagreement
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, seed=0)
        >>> models = {"ensemble": Disagreement(world.observation_space, world.action_space)}
        >>> agent = PPO(world, reward_models=models).learn(64 * 32, progress=False)
    """

    networks: "_Networks"

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        members: int = 5,
        lr: float = 1e-3,
        updates: int = 8,
        batch_size: int = 256,
        memory: int = 2**15,
        seed: int = 0,
    ) -> None:
        if members < 2:
            raise ValueError(f"'members' must be at least 2, got {members}")
        self.members, self.actions = members, action_width(action_space)
        with drawing_from(seed):
            networks = _Networks(Standardised(observation_space), self.actions, members)
        super().__init__(
            networks,
            networks.inputs,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            memory=memory,
            seed=seed,
        )

    def predictions(self, obs: Tensor, action: Tensor) -> Tensor:
        """The mean of s' as each member expects it, with shape (members, B, features)."""
        numbers = action_numbers(action, self.actions)
        predicted: Tensor = self.networks.ensemble(self.inputs(obs), numbers)
        return predicted

    def bonus(self, t: Transitions) -> Tensor:
        return self.predictions(t.obs, t.action).var(0).mean(1)

    def rows(self, t: Transitions) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(mix(self.seed, 2, self.rehearsal.drawn))
        # how often each member's bootstrap holds a step
        rate = torch.ones(len(t), self.members)
        times = torch.poisson(rate, generator=generator).to(t.obs.device)
        return t.obs, t.action, t.next_obs, times

    def losses(self, *rows: Tensor) -> dict[str, Tensor]:
        obs, action, next_obs, times = rows
        errors = (self.predictions(obs, action) - self.inputs(next_obs)).square()
        # members share no weights, so each has the gradient it would have alone
        return {"error": (errors.mean(2) * times.T).mean(1).sum()}


class _Networks(nn.Module):
    def __init__(self, inputs: Standardised, actions: int, members: int) -> None:
        super().__init__()
        self.inputs = inputs
        width = inputs.width
        self.ensemble = ForwardModels(width, actions, width, members=members, hidden=128)


@runtime_checkable
class _Conditional(Protocol):
    """A model whose conditional distribution has a name in torch."""

    def distribution(self, context: Tensor) -> Distribution: ...


def encoded(features: Encoder | Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
    """Features of observations; those of an `Encoder` are the means of its codes."""
    if not isinstance(features, Encoder):
        return features(obs)
    if not isinstance(features, GenerativeModel):
        code: Tensor | Distribution = features.encode(obs)
        return code if isinstance(code, Tensor) else code.mean
    with evaluating(features), unchecked():
        mean: Tensor = features.encode(as_data(obs, features)).mean
    return mean


def _width_for_actions(
    dynamics: GenerativeModel, features: Encoder | Callable[[Tensor], Tensor] | None, consumer: str
) -> int:
    """What the context has left for actions; what does not fit together is refused."""
    name, count, shape = type(dynamics).__name__, dynamics.event_shape.numel(), None
    if dynamics.context_shape is not None:
        shape = tuple(dynamics.context_shape)
    if shape is None or len(shape) != 1 or shape[0] <= count:
        raise ValueError(
            f"{consumer} needs dynamics of {count} features to have a context of shape "
            f"({count} + A,) with A numbers for the action; {name} has {shape}"
        )
    if isinstance(features, GenerativeModel):
        _check_encoder(features, dynamics, consumer)
    return int(shape[0]) - count


def _check_encoder(encoder: GenerativeModel, dynamics: GenerativeModel, consumer: str) -> None:
    require(encoder, Encoder, consumer)
    assert isinstance(encoder, Encoder)
    name, others = type(encoder).__name__, type(dynamics).__name__
    if not isinstance(dynamics.support, Real):
        raise ValueError(
            f"{consumer}: {name} encodes to real numbers, and {others} models no real numbers"
        )
    x = torch.zeros(1, *encoder.event_shape, device=next(encoder.parameters()).device)
    try:
        width, count = encoded(encoder, x)[0].numel(), dynamics.event_shape.numel()
    except ValueError as error:  # it cannot encode without a context
        raise ValueError(f"{consumer} cannot use {name} for features: {error}") from error
    if width != count:
        raise ValueError(
            f"{consumer}: {name} encodes to {width} features, and {others} is of {count}"
        )


def _innermost(p: Distribution) -> type[Distribution]:
    while isinstance(p, Independent):
        p = p.base_dist
    return type(p)
