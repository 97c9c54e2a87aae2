"""Imitation of an expert that acts in several ways, each of which gets a code of its own."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from rlgen.agents.imitation.adversarial import GAIL
from rlgen.agents.imitation.coded import without_code
from rlgen.agents.imitation.pairs import Pairs, Rows
from rlgen.agents.transitions import Transitions
from rlgen.checkpoint import Configurable, load_module_state
from rlgen.generative import NonFiniteLoss
from rlgen.generative.nets import ContextMLP, ImageEncoder, is_image
from rlgen.seeding import drawing_from, mix


class InfoGAIL(Configurable):
    """GAIL for the agent of a `Coded` world, which is also paid for making its code known.

        r(s, a, c) = r_GAIL(s, a) + weight (log q(c|s, a) + log codes)
        I(c; s, a) >= E[log q(c|s, a)] + log codes

    q learns to read the code off the agent's steps, never off the expert's, whose codes nobody
    knows; the critic does not see codes. A step that says nothing of the code is paid nothing for
    it, and what comes after an episode's end is judged by the critic alone. A Wasserstein game,
    clipped weights and so on are the `GAIL`'s; what else one would like to reward is one more
    reward model beside this, or the world's own reward with a `world_weight`.

    References:
        Yunzhu Li, Jiaming Song and Stefano Ermon. InfoGAIL: Interpretable Imitation Learning from
        Visual Demonstrations, 2017. https://arxiv.org/abs/1703.08840

    Args:
        gail: of the world without codes.
        codes: as many as the `Coded` world has.
        weight: of the information, beside GAIL's reward.
        hidden: widths of the posterior's hidden layers.
        lr: of Adam.
        updates: gradient steps of the posterior for each call of `update`.
        batch_size: steps of the agent in each.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.imitation import GAIL, Coded, InfoGAIL, record, routes_expert
        >>> from rlgen.envs import FourRooms
        >>> world = FourRooms(64, start=(1, 1), goal=(11, 11), seed=0)
        >>> demonstrations = record(world, routes_expert(world), episodes=16)
        >>> gail = GAIL(demonstrations, world.observation_space, world.action_space)
        >>> models = {"imitation": InfoGAIL(gail, codes=2)}
        >>> agent = PPO(Coded(world, codes=2), reward_models=models, world_weight=0.0)
        >>> agent = agent.learn(64 * 32, progress=False)
    """

    def __init__(
        self,
        gail: GAIL,
        *,
        codes: int = 2,
        weight: float = 0.25,
        hidden: tuple[int, ...] = (64, 64),
        lr: float = 3e-3,
        updates: int = 16,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if codes < 2:
            raise ValueError(f"'codes' must be at least 2, got {codes}")
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"'weight' must be at least 0 and finite, got {weight}")
        if lr <= 0.0 or updates < 0 or batch_size < 1:
            raise ValueError(
                "'lr' and 'batch_size' must be positive and 'updates' not negative, "
                f"got {lr}, {batch_size} and {updates}"
            )
        self.gail, self.codes, self.weight = gail, codes, weight
        self.updates, self.batch_size, self.seed = updates, batch_size, seed
        with drawing_from(mix(seed, 0)):
            self.posterior = _Posterior(gail.pairs, codes, hidden)
        self.optimizer = torch.optim.Adam(self.posterior.parameters(), lr=lr)
        self.drawn = 0

    @torch.no_grad()
    def reward(self, t: Transitions) -> Tensor:
        bare, code = self._apart(t)
        known = self._log_posterior(self.gail.pairs.steps(bare), code) + math.log(self.codes)
        return (self.gail.reward(bare) + self.weight * known).to(t.obs.device)

    def update(self, t: Transitions) -> dict[str, float]:
        """The critic learns, and the posterior reads the agent's steps."""
        bare, code = self._apart(t)
        figures, known = self.gail.update(bare), []
        rows = self.gail.pairs.steps(bare)
        for _ in range(self.updates):
            with drawing_from(mix(self.seed, 1, self.drawn)):
                self.drawn += 1
                index = torch.randint(len(code), (self.batch_size,), device=code.device)
            log_posterior = self._log_posterior(rows.take(index), code[index]).mean()
            self.optimizer.zero_grad()
            (-log_posterior).backward()
            self.optimizer.step()
            known.append(log_posterior.detach())
        if known:
            figures["information"] = float(torch.stack(known).mean()) + math.log(self.codes)
            if not math.isfinite(figures["information"]):
                raise NonFiniteLoss("the posterior's loss is not finite; a lower lr may help")
        return figures

    def log_posterior(self, obs: Tensor, action: Tensor) -> Tensor:
        """log q(c|s, a) of every code, of observations without one, with shape (B, codes)."""
        no = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        t = Transitions(obs, action, torch.zeros(len(obs), device=obs.device), obs, no, no)
        return self._logits(self.gail.pairs.steps(t)).log_softmax(1)

    def to(self, device: str | torch.device) -> "InfoGAIL":
        """Compute on another device; before the first update."""
        self.gail.to(device)
        self.posterior.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        state = {
            "gail": self.gail.state_dict(),
            "posterior": dict(self.posterior.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "drawn": self.drawn,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # or optimisers would share what they change in place
        self.gail.load_state_dict(state["gail"])
        load_module_state(self.posterior, state["posterior"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.drawn = state["drawn"]

    def _apart(self, t: Transitions) -> tuple[Transitions, Tensor]:
        """The steps as the world without codes has them, and the codes."""
        self._check(t.obs)
        device = next(self.posterior.parameters()).device
        obs, code = without_code(t.obs, self.codes)
        next_obs, _ = without_code(t.next_obs, self.codes)
        parts = (obs, t.action, t.reward, next_obs, t.terminated, t.truncated)
        return Transitions(*parts).to(device), code.to(device)

    def _check(self, obs: Tensor) -> None:
        first, *rest = self.gail.pairs.event_shape
        wanted = (first + self.codes, *rest)
        if tuple(obs.shape[1:]) != wanted:
            raise ValueError(
                f"observations must be those of a world Coded with {self.codes} codes, of shape "
                f"{wanted}, got {tuple(obs.shape[1:])}"
            )

    def _log_posterior(self, rows: Rows, code: Tensor) -> Tensor:
        """log q(c|s, a) of the codes (B,), with shape (B,)."""
        return self._logits(rows).log_softmax(1).gather(1, code[:, None]).squeeze(1)

    def _logits(self, rows: Rows) -> Tensor:
        pairs = self.gail.pairs
        logits: Tensor = self.posterior(pairs.state(rows.obs), pairs.context(rows))
        return logits


class _Posterior(nn.Module):
    """(state, action) -> a logit for each code."""

    def __init__(self, pairs: Pairs, codes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        shape, context = pairs.event_shape, pairs.context_shape
        self.picture = is_image(shape)
        self.net: nn.Module
        if self.picture:
            self.net = ImageEncoder(shape, codes, 1, context, hidden=hidden)
        else:
            self.net = ContextMLP(shape.numel(), codes, context, hidden)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.net(x.unsqueeze(-1) if self.picture else x, context)
        return out
