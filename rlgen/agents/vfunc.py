"""VFunc: a distribution over whole policies, that earn much and differ much.

Notation: z, the code of a policy, fixed for an episode; f, what the policy pi_z does at m states
S_H: its action probabilities there, under noise of a fixed amount.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rlgen.agents.evaluation import evaluate
from rlgen.agents.latent import Latent, LatentPolicy, drawn
from rlgen.agents.learners.earnings import Batch, Models
from rlgen.agents.learners.learner import Learner
from rlgen.agents.learners.ppo import PPO
from rlgen.agents.learners.reinforce import REINFORCE
from rlgen.agents.policies import Policies, PolicyFunction, Replay, SquaredDistance
from rlgen.agents.policy import ActorCritic
from rlgen.agents.transitions import flat
from rlgen.envs.tabular import TabularGrid
from rlgen.envs.world import World
from rlgen.generative import VFunc as FunctionModel
from rlgen.generative.functions import Difference, Direct, Prior, Similarity, StandardNormal
from rlgen.generative.heads import FixedNormal
from rlgen.seeding import drawing_from, mix

Task = Literal["ppo", "reinforce"]
Bound = Literal["discretise", "maxent"]
Encoder = Literal["likelihood", "difference", "direct", "similarity"]
States = Literal["replay", "all"]
_TASKS: dict[str, type[PPO] | type[REINFORCE]] = {"ppo": PPO, "reinforce": REINFORCE}


class VFunc(Learner):
    """Policies pi_z for codes z ~ p(z): each gradient step is for the task and for their variety.

        maximise E over z of [return of pi_z] + entropy_weight (a lower bound of I(f; z))

    The gradient for the task is that of PPO or REINFORCE, in a world that shows z beside what is
    seen; z is drawn anew for each episode. Beside it, fresh z_1, ..., z_k ~ p(z) are asked what
    they do at m states of a replay buffer: f = pi_z(S_H) + noise. The bound of their information is

        discretise:  log k + E log softmax over z_1..z_k of score(f, z_j), at the z that made f
        maxent:      H(z) + E log q(z | f)

    and its gradient flows through f into the policy, and into the encoder. As the noise has a fixed
    amount, H(f|z) is a constant, and the same gradient ascends a bound of H(f).
    With an `entropy_weight` of 0 this is the learner of the task, and nothing else.

    References:
        | VFunc: a deep generative model for functions (Bachman et al., 2018)
        | https://arxiv.org/abs/1807.04106

    Args:
        world: what it lives in, with discrete or continuous actions.
        task: whose gradient earns the return, "ppo" or "reinforce".
        settings: arguments of that learner, such as {"lr": 1e-3, "discount": 0.95}.
        prior: p(z); StandardNormal(16) unless given.
        entropy_weight: of the bound.
        bound: "discretise" or "maxent".
        encoder: how functions are compared: "likelihood", the exact one of the noise, or
            "similarity", learnt, which only score candidates; "difference" or "direct", which
            give a distribution over z. None takes the first, or for maxent "difference".
        states: where: "replay" draws them from what was visited lately; "all" takes every cell of
            a world with a handful.
        points: m, how many states of the replay buffer.
        candidates: k, how many z at each gradient step.
        noise: standard deviation of the noise on f.
        capacity: of the replay buffer, in observations.
        hidden: widths of the policy's hidden layers.
        reward_models: name -> a reward model, (model, weight), or a `Stream`.
        seed: of everything random here; the world has its own.

    Example:
        >>> from rlgen.agents import VFunc
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(16, size=4, start=(0, 0), seed=0)
        >>> agent = VFunc(world, settings={"steps": 16}, seed=0).learn(256, progress=False)
        >>> agent.predict(world.reset(), z=agent.sample_policies(16).z).shape
        torch.Size([16])
        >>> agent.sample_policies(5).table(world).shape
        torch.Size([5, 16, 4])
    """

    def __init__(
        self,
        world: World,
        *,
        task: Task = "ppo",
        settings: Mapping[str, Any] | None = None,
        prior: Prior | None = None,
        entropy_weight: float = 0.02,
        bound: Bound = "discretise",
        encoder: Encoder | None = None,
        states: States = "replay",
        points: int = 16,
        candidates: int = 128,
        noise: float = 0.4,
        capacity: int = 8192,
        hidden: Sequence[int] = (64, 64),
        reward_models: Models | None = None,
        seed: int = 0,
    ) -> None:
        encoder = encoder or ("likelihood" if bound == "discretise" else "difference")
        _check(task=(task, Task), bound=(bound, Bound), encoder=(encoder, Encoder))
        _check(states=(states, States))
        self.prior = StandardNormal(16) if prior is None else prior
        beside = Latent(world, self.prior, seed=seed)
        with drawing_from(mix(seed, 0, 1)):
            policy = LatentPolicy.beside(beside, hidden=hidden)
            model = ActorCritic(policy, streams=1 + len(reward_models or {}))
        views = _views(world, beside) if states == "all" else None
        with drawing_from(mix(seed, 0, 2)):
            count = points if views is None else len(views)
            self.functions = _functions(
                beside, policy, self.prior, count, encoder=encoder, noise=noise
            )
        model.comparison = self.functions.comparison
        self.task = _TASKS[task](
            beside, model=model, reward_models=reward_models, seed=seed, **(settings or {})
        )
        super().__init__(
            beside,
            model=model,
            reward_models=reward_models,
            steps=self.task.steps,
            discount=self.task.earnings.discount,
            trace=self.task.earnings.trace,
            world_weight=self.task.earnings.world_weight,
            temperature=self.task.earnings.temperature,
            seed=seed,
        )
        self.given_world, self.earnings = world, self.task.earnings
        self.functions.to(world.device)
        self.optimizer, self.latent_world = self.task.optimizer, beside
        self.entropy_weight, self.bound, self.candidates = entropy_weight, bound, candidates
        self.replay = Replay(capacity, views) if views is None else Replay(len(views), views)
        self.known: list[Tensor] = []
        if entropy_weight > 0.0:
            self.task.beside = self._variety

    def update(self, batch: Batch) -> dict[str, float]:
        self._remember(batch.rollout.obs)
        self.known = []
        metrics = self.task.update(batch)
        if self.known:
            metrics["vfunc/information"] = float(torch.stack(self.known).mean())
        return metrics

    def predict(
        self,
        obs: Tensor | Mapping[str, Any],
        *,
        deterministic: bool = True,
        z: Tensor | None = None,
    ) -> Tensor:
        """Actions for observations, by the policies of these z, or of one drawn for each.

        Args:
            obs: a batch of observations of the world, without z.
            deterministic: the mode of each policy instead of a sample.
            z: with shape (B, *shape of z), or one for all.
        """
        if z is not None:
            z = z.to(self.world.device).expand(len(flat(obs)), *self.prior.shape)
        return self.act(obs, z, deterministic=deterministic)[0]

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | Mapping[str, Any],
        state: Tensor | None = None,
        episode_start: Tensor | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Actions along episodes; the state is z, which an episode's start draws anew.

        Args:
            obs: a batch of observations of the world, without z.
            state: what `act` gave with the observations before these; None for the first ones.
            episode_start: which of `obs` begin an episode, as booleans with shape (B,).
            deterministic: the mode of each policy instead of a sample.

        Returns:
            The actions, and z for the next call.
        """
        obs = flat(obs).to(self.world.device)
        fresh = drawn(self.prior, len(obs), None)
        if state is None:
            state = fresh
        elif episode_start is not None:
            starts = episode_start.to(state.device).reshape(-1, *[1] * (state.ndim - 1))
            state = torch.where(starts, fresh, state)
        seen = self.latent_world.beside(obs, state)
        return super().act(seen, deterministic=deterministic)[0], state

    def evaluate(
        self,
        episodes: int = 100,
        *,
        world: World | None = None,
        deterministic: bool = True,
        seed: int = 2**20,
    ) -> dict[str, float]:
        """Means over whole episodes, with a z drawn for each; see `Learner.evaluate`."""
        if world is None or world is self.given_world:
            return super().evaluate(
                episodes, world=world, deterministic=deterministic, seed=seed
            )
        latent = Latent(world, self.prior, seed=seed)
        return evaluate(self.model, latent, episodes, deterministic=deterministic, seed=seed)

    def sample_policies(self, n: int, *, generator: int | torch.Generator | None = None) -> Policies:
        """`n` policies, each a z, to be asked anything; `generator` may be a seed."""
        if n < 1:
            raise ValueError(f"'n' must be positive, got {n}")
        return Policies(self.latent_world, self.policy, drawn(self.prior, n, generator))

    def policies_of(self, z: Tensor) -> Policies:
        """The policies of these z, with shape (n, *shape of z)."""
        return Policies(self.latent_world, self.policy, z.to(self.world.device))

    @property
    def policy(self) -> LatentPolicy:
        return cast(LatentPolicy, self.model.policy)

    @torch.no_grad()
    def information_bound(self, draws: int = 64, *, seed: int = 2**20) -> float:
        """The lower bound of I(f; z) in nats, on fresh sets of states.

        It is at most log `candidates` for "discretise". Bounds for another number of states, or
        another noise, are bounds of something else.

        Args:
            draws: sets of states.
            seed: of states, z and noise.
        """
        with drawing_from(mix(seed, 4)):
            known = [self._information().mean() for _ in range(draws)]
        return float(torch.stack(known).mean())

    def entropy_bound(self, draws: int = 64, *, seed: int = 2**20) -> float:
        """The lower bound of H(f): that of the information, and the entropy of the noise."""
        return self.information_bound(draws, seed=seed) + self.functions.noise_entropy

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.replay.load_state_dict(state["replay"], self.world.device)

    def _variety(self) -> Tensor:
        """What each gradient step of the task descends beside its own loss."""
        known = self._information().mean()
        self.known.append(known.detach())
        return -self.entropy_weight * known

    def _information(self) -> Tensor:
        """The bound for each of k fresh draws, at fresh states."""
        assert self.functions.context_shape is not None
        states = self.replay.draw(self.functions.context_shape[0])
        candidates = self.candidates if self.bound == "discretise" else None
        return self.functions.information(states, self.candidates, candidates=candidates)

    def _remember(self, obs: Tensor) -> None:
        self.replay.note(obs.flatten(0, 1)[:, : -self.prior.width])


def _functions(
    world: Latent,
    policy: LatentPolicy,
    prior: Prior,
    points: int,
    *,
    encoder: Encoder,
    noise: float,
) -> FunctionModel:
    """The policy as a model of functions: from states to what is done there."""
    function = PolicyFunction(policy, prior)
    inputs, head = world.features.width, FixedNormal(noise)
    comparison: nn.Module
    if encoder == "likelihood":
        comparison = SquaredDistance(noise)
    elif encoder == "similarity":
        comparison = Similarity(prior, inputs=inputs, outputs=function.outputs)
    elif encoder == "direct":
        comparison = Direct(prior, inputs=inputs, outputs=function.outputs)
    else:
        comparison = Difference(
            prior.width, inputs=inputs, outputs=function.outputs, scale=noise
        )
    return FunctionModel(
        (points, function.outputs),
        function,
        inputs=inputs,
        prior=prior,
        comparison=comparison,
        head=head,
    )


def _views(world: World, beside: Latent) -> Tensor:
    """What is seen in each cell, flat."""
    if not isinstance(world, TabularGrid):
        raise ValueError(f"'states' can be \"all\" in a TabularGrid, not in {type(world).__name__}")
    return beside.features.scaled(world.views()).flatten(1)


def _check(**given: tuple[object, Any]) -> None:
    for name, (value, choices) in given.items():
        allowed = get_args(choices)
        if value not in allowed:
            raise ValueError(f"{name!r} must be one of {', '.join(allowed)}, got {value!r}")
