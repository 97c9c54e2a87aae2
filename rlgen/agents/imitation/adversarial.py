"""Imitation as a game: a critic tells the expert's steps from the agent's, and pays by that."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import gymnasium
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlgen.agents.imitation.demonstrations import Demonstrations
from rlgen.agents.imitation.pairs import Pairs, Rows
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable, load_module_state
from rlgen.generative import Critic, NonFiniteLoss, NonSaturating, Wasserstein
from rlgen.generative.adversarial.critic import accuracy
from rlgen.generative.adversarial.games import Game, gradient_penalty
from rlgen.seeding import drawing_from, mix

_SOME = 256  # steps of the expert by which the level of rewards is measured

Reward = Literal["positive", "negative", "logit"]


class Adversary(Configurable, ABC):
    """A reward model that learns to tell the expert's steps from those it pays.

    An episode that terminates would end all rewards, so that positive ones make the agent live
    on and negative ones make it die, whatever the expert does. Here it stays in its last state for
    ever, and the critic judges that too. A step that terminates in s' is paid

        r(s, a) + discount / (1 - discount) r(s', over),

    what the steps from there on are worth, so that every learner, which stops counting at the end,
    maximises what it would if it went on. Episodes that run out of time have no such end.
    References:
        Ilya Kostrikov, Kumar Krishna Agrawal, Debidatta Dwibedi, Sergey Levine and Jonathan
        Tompson. Discriminator-Actor-Critic: Addressing Sample Inefficiency and Reward Bias in
        Adversarial Imitation Learning, 2019. https://arxiv.org/abs/1809.02925

    Args:
        demonstrations: of the expert.
        observation_space: of the world.
        action_space: of the world.
        networks: makes all that is learnt, from the `Pairs` that it sees.
        absorbing: whether ended episodes go on in their last state.
        discount: the learner's; with another one, ends are paid too much or too little.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: steps of the expert in each, and as many of the agent.
        seed: of everything random.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        networks: Callable[[Pairs], nn.Module],
        absorbing: bool,
        discount: float,
        lr: float,
        updates: int,
        batch_size: int,
        seed: int,
    ) -> None:
        _check(discount=discount, lr=lr, updates=updates, batch_size=batch_size)
        demonstrations.check(observation_space, action_space)
        self.absorbing, self.discount = absorbing, discount
        self.updates, self.batch_size, self.seed = updates, batch_size, seed
        with drawing_from(mix(seed, 0)):
            self.pairs = Pairs(observation_space, action_space)
            self.networks = networks(self.pairs).eval()
        shown = demonstrations.to("cpu").transitions()
        self.expert = self.pairs.rows(shown, absorbing=absorbing)
        self.pairs.note(self.expert)
        self.some = self.expert.take(_spaced(len(self.expert.over), _SOME))
        self.parameters = [p for p in self.networks.parameters() if p.requires_grad]
        # the fused kernel misreads gradients whose layout differs, as those of convolutions may
        fused = all(p.ndim <= 2 for p in self.parameters)
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=fused)
        self.drawn = 0

    @abstractmethod
    def judge(self, rows: Rows) -> Tensor:
        """The critic's logits, high for the expert's steps, with shape (B,)."""

    @abstractmethod
    def pay(self, logits: Tensor) -> Tensor:
        """The reward of a step that the critic judges so."""

    @abstractmethod
    def loss(self, expert: Rows, agent: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """What a gradient step makes smaller, and the logits of both."""

    def level(self) -> Tensor | float:
        """What is taken off every reward where nothing ends."""
        return 0.0

    def after_step(self) -> None:
        """What becomes of the weights after each gradient step."""

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        here = t.to(self.parameters[0].device)
        paid = self.pay(self.judge(self.pairs.steps(here)))
        if self.absorbing:
            level = self.level()
            paid = paid - level
            if bool(here.terminated.any()):
                ever = self.pay(self.judge(self.pairs.after(here))) - level
                rest = torch.zeros_like(paid).masked_scatter(here.terminated, ever)
                paid = paid + self.discount / (1.0 - self.discount) * rest
        return paid.to(t.obs.device)

    def update(self, t: Transitions) -> dict[str, float]:
        """Some gradient steps that tell these steps from the expert's.

        Returns:
            Nothing without updates; else "loss", "logit_gap" (the mean logit of the expert minus
            the agent's), "accuracy" (1/2 where a classifier cannot tell) and "absorbed", the share
            of what the agent was judged by that came after the end of an episode: 0 without
            absorbing states.
        """
        agent = self.pairs.rows(t.to(self.parameters[0].device), absorbing=self.absorbing)
        expert = self.expert = self.expert.to(agent.over.device)
        self.pairs.note(agent)
        figures = []
        self.networks.train()
        for _ in range(self.updates):
            with drawing_from(mix(self.seed, 1, self.drawn)):
                self.drawn += 1
                loss, *logits = self.loss(expert.draw(self.batch_size), agent.draw(self.batch_size))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.after_step()
            figures.append(torch.stack([loss.detach(), *(part.detach().mean() for part in logits)]))
        self.networks.eval()  # or spectral norms would go on with every look
        if not figures:
            return {}
        mean, real, fake = torch.stack(figures).mean(0).tolist()
        if not math.isfinite(mean):
            raise NonFiniteLoss(
                f"the loss of imitation's critic is {mean}, and its weights are lost; a lower lr "
                "may help"
            )
        right = accuracy(logits[0].detach(), logits[1].detach())
        absorbed = float(agent.over.float().mean())
        return {"loss": mean, "logit_gap": real - fake, "accuracy": right, "absorbed": absorbed}

    def state_dict(self) -> dict[str, Any]:
        state = {
            "networks": dict(self.networks.state_dict()),
            "pairs": dict(self.pairs.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "drawn": self.drawn,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # or optimisers would share what they change in place
        load_module_state(self.networks, state["networks"])
        load_module_state(self.pairs, state["pairs"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.drawn = state["drawn"]

    def to(self, device: str | torch.device) -> "Adversary":
        """Compute on another device; before the first update."""
        self.networks.to(device)
        self.pairs.to(device)
        self.expert, self.some = (
            rows.to(torch.device(device)) for rows in (self.expert, self.some)
        )
        return self


class GAIL(Adversary):
    """Generative adversarial imitation: the agent is the generator, its steps the samples.

        critic  max over D of  E_expert[log D(s, a)] + E_agent[log(1 - D(s, a))],
                at its best D = rho_expert / (rho_expert + rho_agent)
        agent   paid r(s, a), with the critic's logit l = log D - log(1 - D):
                    positive  -log(1 - D) = softplus(l)     the paper's, whose D is 1 - D
                    negative  log D = -softplus(-l)
                    logit     l, the log ratio of the densities of both
        Wasserstein: l itself, its slope held down by `penalty`, `clip` or `spectral`

    An episode that ends goes on in its last state, as `Adversary` says. As nothing ends then, a
    constant may be taken off every reward, and it is the mean of what the expert would be paid: a
    critic that cannot tell pays nothing, neither for living nor for dying. Without it a learner
    whose values begin at zero would prefer the end, which is paid at once for all that follows.

    References:
        Jonathan Ho and Stefano Ermon. Generative Adversarial Imitation Learning, 2016.
        https://arxiv.org/abs/1606.03476

    Args:
        demonstrations: of the expert.
        observation_space: of the world.
        action_space: of the world.
        game: what the critic minimises: `NonSaturating()`, `Minimax()` or `Wasserstein()`.
        reward: what the agent is paid; a `Wasserstein` game has logits alone.
        penalty: weight of (slope - 1)^2 between the expert's steps and the agent's; 0 for none.
        spectral: divide the critic's weights by their largest singular values.
        clip: the largest size of the critic's weights, or None; a `penalty` would pull against it.
        hidden: widths of the critic's hidden layers.
        absorbing: whether ended episodes go on in their last state.
        discount: the learner's; with another one, ends are paid too much or too little.
        lr: of Adam.
        updates: gradient steps for each call of `update`.
        batch_size: steps of the expert in each, and as many of the agent.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.imitation import GAIL, record, shortest_paths_expert
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, goal=(11, 11), seed=0)
        >>> demonstrations = record(world, shortest_paths_expert(world), episodes=4)
        >>> gail = GAIL(demonstrations, world.observation_space, world.action_space)
        >>> agent = PPO(world, reward_models={"gail": gail}, world_weight=0.0)
        >>> agent = agent.learn(64 * 32, progress=False)
    """

    networks: Critic

    def __init__(
        self,
        demonstrations: Demonstrations,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        game: Game = NonSaturating(),  # noqa: B008
        reward: Reward = "positive",
        penalty: float = 1.0,
        spectral: bool = False,
        clip: float | None = None,
        hidden: tuple[int, ...] = (64, 64),
        absorbing: bool = True,
        discount: float = 0.99,
        lr: float = 1e-3,
        updates: int = 16,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        _check_game(game, reward, penalty, clip)
        self.game, self.reward_form = game, reward
        self.penalty, self.clip = penalty, clip

        def critic(pairs: Pairs) -> Critic:
            made = Critic(
                pairs.event_shape,
                context_shape=pairs.context_shape,
                hidden=hidden,
                offset=not isinstance(game, Wasserstein),
            )
            return _normalised(made) if spectral else made

        super().__init__(
            demonstrations,
            observation_space,
            action_space,
            networks=critic,
            absorbing=absorbing,
            discount=discount,
            lr=lr,
            updates=updates,
            batch_size=batch_size,
            seed=seed,
        )
        self.after_step()  # weights are clipped before anything is paid

    @property
    def critic(self) -> Critic:
        """Tells the expert's steps from the agent's; see `Pairs` for its x and its context."""
        return self.networks

    def logits(self, obs: Tensor, action: Tensor) -> Tensor:
        """How much more a step looks like the expert's than like the agent's, with shape (B,)."""
        no = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        t = Transitions(obs, action, torch.zeros(len(obs), device=obs.device), obs, no, no)
        return self.judge(self.pairs.steps(t))

    def judge(self, rows: Rows) -> Tensor:
        logits: Tensor = self.critic(self.pairs.state(rows.obs), self.pairs.context(rows))
        return logits

    def pay(self, logits: Tensor) -> Tensor:
        if self.reward_form == "positive":
            return F.softplus(logits)
        if self.reward_form == "negative":
            return -F.softplus(-logits)
        return logits

    def level(self) -> Tensor:
        """The mean of what the expert would be paid."""
        return self.pay(self.judge(self.some)).mean()

    def loss(self, expert: Rows, agent: Rows) -> tuple[Tensor, Tensor, Tensor]:
        ends = self._joint(expert), self._joint(agent)
        real, fake = self._of_joint(torch.cat(ends), None).split([len(end) for end in ends])
        loss = self.game.critic_loss(real, fake).mean()
        if self.penalty > 0.0:
            loss = loss + self.penalty * gradient_penalty(self._of_joint, *ends).mean()
        return loss, real, fake

    @torch.no_grad()
    def after_step(self) -> None:
        if self.clip is not None:
            for parameter in self.parameters:
                parameter.clamp_(-self.clip, self.clip)

    def _joint(self, rows: Rows) -> Tensor:
        """States and actions in one vector, so that a point between two is one between both."""
        x = self.pairs.state(rows.obs)
        return torch.cat([x.flatten(1), self.pairs.context(rows)], dim=1)

    def _of_joint(self, joint: Tensor, context: Tensor | None) -> Tensor:
        del context
        x, action = joint.tensor_split([self.pairs.event_shape.numel()], dim=1)
        logits: Tensor = self.critic(x.reshape(-1, *self.pairs.event_shape), action)
        return logits


def _spaced(count: int, most: int) -> Tensor:
    """So many of `count` numbers at most, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def _normalised(critic: Critic) -> Critic:
    """Every layer divided by its largest singular value."""
    for layer in list(critic.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(layer)
    return critic


def _check(*, discount: float, lr: float, updates: int, batch_size: int) -> None:
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"'discount' must be at least 0 and below 1, got {discount}")
    if lr <= 0.0:
        raise ValueError(f"'lr' must be positive, got {lr}")
    if updates < 0:
        raise ValueError(f"'updates' must not be negative, got {updates}")
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be positive, got {batch_size}")


def _check_game(game: Game, reward: str, penalty: float, clip: float | None) -> None:
    if reward not in get_args(Reward):
        raise ValueError(f"'reward' must be one of {', '.join(get_args(Reward))}, got {reward!r}")
    if isinstance(game, Wasserstein) and reward != "logit":
        raise ValueError(f"'reward' must be 'logit' in a Wasserstein game, got {reward!r}")
    if penalty < 0.0:
        raise ValueError(f"'penalty' must not be negative, got {penalty}")
    if clip is not None and clip <= 0.0:
        raise ValueError(f"'clip' must be positive or None, got {clip}")
