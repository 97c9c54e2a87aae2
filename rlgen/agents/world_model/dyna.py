"""Dyna: Q-learning whose every real step brings along several that a learnt model draws."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from rlgen.agents.exploration.counts import TableCounts
from rlgen.agents.learners.learner import Callback
from rlgen.agents.progress import live_line
from rlgen.checkpoint import Configurable, load_module_state
from rlgen.envs.tabular import TabularGrid
from rlgen.generative import Categorical
from rlgen.generative.basic import log_frequencies
from rlgen.seeding import drawing_from, mix


class Moves(NamedTuple):
    """Single steps between cells, each with shape (B,); `ended` in the task's own terms."""

    cell: Tensor
    action: Tensor
    reward: Tensor
    next_cell: Tensor
    ended: Tensor


class TabularModel(Configurable, nn.Module):
    """A generative model of steps between cells, by counting.

    p(s'|s, a) is a table for each (s, a), the core's `Categorical` at its maximum likelihood; the
    reward is the mean of those seen in (s, a, s'), and the end has their share. Nothing drawn is
    stored: what was learnt a moment ago is in the next draw.

    Args:
        cells: S of them.
        actions: A of them.
        keep: the share of older experience of (s, a) that one more visit leaves. 1 counts all
            alike; below that, what a world that has changed no longer does fades away, and with 0
            only the last visit counts.

    Example:
        >>> import torch
        >>> from rlgen.agents.world_model.dyna import Moves, TabularModel
        >>> model = TabularModel(3, 1)
        >>> cell, onward = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 2, 2])
        >>> model.observe(Moves(cell, torch.zeros(4).long(), torch.zeros(4), onward, onward == 2))
        >>> [round(p, 2) for p in model.transition[0, 0].tolist()]
        [0.0, 0.67, 0.33]
        >>> sorted(set(model.draw(64).cell.tolist()))  # nobody knows what follows on 2
        [0, 1]
    """

    seen: Tensor

    def __init__(self, cells: int, actions: int, *, keep: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= keep <= 1.0:
            raise ValueError(f"'keep' must be a share, got {keep}")
        self.keep = keep
        self.density = Categorical((cells, actions), categories=cells)
        # of (s, a, s'): how often, the sum of rewards, and how often it was the end
        self.register_buffer("seen", torch.zeros(cells, actions, cells, 3, dtype=torch.float64))

    @property
    def transition(self) -> Tensor:
        """p(s'|s, a), with shape (S, A, S); uniform where nothing is known."""
        return self.density.probs.detach()

    @torch.no_grad()
    def observe(self, moves: Moves) -> None:
        """Learn from real steps."""
        place = (moves.cell, moves.action)
        one = torch.ones_like(moves.cell, dtype=torch.float64)
        visits = self.seen.new_zeros(self.seen.shape[:2]).index_put_(place, one, accumulate=True)
        if self.keep < 1.0:
            self.seen *= (self.keep**visits)[..., None, None]
        found = torch.stack([one, moves.reward.double(), moves.ended.double()], dim=1)
        self.seen.index_put_((*place, moves.next_cell), found, accumulate=True)
        rows = log_frequencies(self.seen[place][..., 0])
        self.density.logits[place] = rows.to(self.density.logits)

    @torch.no_grad()
    def draw(self, n: int) -> Moves:
        """Steps from the model as it is now, from any known (s, a) with equal probability."""
        known = self.seen[..., 0].sum(2) > 0
        start = torch.multinomial(known.flatten().double(), n, replacement=True)
        cell, action = start // known.shape[1], start % known.shape[1]
        rows = self.density.logits[cell, action].softmax(1)
        next_cell = torch.multinomial(rows, 1).squeeze(1)
        count, earned, ended = self.seen[cell, action, next_cell].unbind(1)
        ends = torch.rand_like(count) < ended / count
        return Moves(cell, action, earned / count, next_cell, ends)


class Dyna:
    """Q-learning on real steps, and on k as many steps of a model that learns from the same ones.

    Q(s, a) += N(s, a)^-decay (r + discount max over b of Q(s', b) - Q(s, a)),

    where an end has nothing after it and running out of time does not matter. The real steps of all
    copies are one batch, then come k batches of as many, each drawn anew from the `TabularModel`.
    An entry that is met m times in one goes m times as far towards the mean, at most all the way.
    With k = 0 this is Q-learning, and no model is learnt.

    References:
        | Dyna, an Integrated Architecture for Learning, Planning, and Reacting (Sutton, 1991)
        | https://doi.org/10.1145/122344.122377
        | Learning Rates for Q-learning (Even-Dar and Mansour, 2003)
        | https://www.jmlr.org/papers/v5/evendar03a.html

    Args:
        world: of cells; its goal must stay. One that looks the same may take its place later.
        k: steps of the model beside each real one.
        discount: of rewards.
        decay: of the step size, N(s, a) counting all updates, drawn ones too. 0 always takes the
            newest, which is right where nothing slips, and only there. Under slips, proofs of
            convergence want more than 1/2, but less forgets sooner what was believed at first.
        epsilon: how often an action is left to chance; the others are the best known. Values of
            cells off the best ways are learnt sooner the more it is.
        keep: how much older experience counts for the model; see `TabularModel`.
        seed: of everything random here; the world has its own.

    Example:
        >>> from rlgen.agents.planning import value_iteration
        >>> from rlgen.agents.world_model import Dyna
        >>> from rlgen.envs import OpenWorld
        >>> world = OpenWorld(4, size=4, seed=0)
        >>> agent = Dyna(world, k=5, discount=0.9, decay=0.0).learn(800, progress=False)
        >>> optimum = value_iteration(world.mdp(), discount=0.9)
        >>> bool((agent.values() - optimum.value).abs().max() < 0.01)
        True
    """

    def __init__(
        self,
        world: TabularGrid,
        *,
        k: int = 5,
        discount: float = 0.95,
        decay: float = 0.3,
        epsilon: float = 0.5,
        keep: float = 1.0,
        seed: int = 0,
    ) -> None:
        if k < 0:
            raise ValueError(f"'k' must not be negative, got {k}")
        shares = {"discount": discount, "decay": decay, "epsilon": epsilon}
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name!r} must be from 0 to 1, got {share}")
        self.k, self.discount, self.decay, self.epsilon = k, discount, decay, epsilon
        self.world, self.seed = world, seed
        self._keys = TableCounts().keys(world.views())
        self.actions = int(world.action_space.n)
        self.model = TabularModel(world.cells, self.actions, keep=keep).to(world.device)
        self.q = self.model.seen[:, :, 0, 0].clone()
        self.updates = self.q.clone()
        self.iteration = self.total_steps = 0

    def learn(
        self, total_timesteps: int, *, callback: Callback | None = None, progress: bool = True
    ) -> Self:
        """Go on for at least so many real steps, over all copies; see `Learner.learn`."""
        goal = self.total_steps + total_timesteps
        with live_line(goal, progress) as show:
            while self.total_steps < goal:
                metrics = self.iterate()
                show(self.total_steps, metrics)
                if callback is not None and callback(self.total_steps, metrics):
                    break
        return self

    def iterate(self) -> dict[str, float]:
        """One real step of all copies, and k times as many drawn ones."""
        world = self.world
        if self.iteration == 0:
            world.reset()
        with drawing_from(mix(self.seed, self.iteration)):
            cell = world.state.cell
            action = self._choose(cell)
            reward, terminated, truncated = world.advance(action)
            real = Moves(cell, action, reward, world.state.cell, terminated)
            world.restart(terminated | truncated)
            error = self.update(real)
            if self.k > 0:
                self.model.observe(real)
            for _ in range(self.k):
                self.update(self.model.draw(world.num_envs))
        self.iteration += 1
        self.total_steps += world.num_envs
        return {"td_error": float(error), "tried": float((self.updates > 0).double().mean())}

    def update(self, moves: Moves) -> Tensor:
        """Q-learning on one batch of steps, real or drawn; the mean size of its errors."""
        following = self.q.max(1).values[moves.next_cell].masked_fill(moves.ended, 0.0)
        place = (moves.cell, moves.action)
        error = moves.reward + self.discount * following - self.q[place]
        found = torch.stack([error, torch.ones_like(error)], dim=1)
        batch = self.q.new_zeros(*self.q.shape, 2).index_put_(place, found, accumulate=True)
        total, met = batch.unbind(2)
        self.updates = self.updates + met
        # m at once go m times as far, though not beyond their mean
        size = (self.updates.clamp_min(1.0) ** -self.decay).minimum(1.0 / met.clamp_min(1.0))
        self.q = self.q + size * total
        return error.abs().mean()

    def values(self) -> Tensor:
        """V(s) = max over a of Q(s, a), with shape (S,)."""
        return self.q.max(1).values

    def policy(self) -> Tensor:
        """The best known actions, which share the probability, with shape (S, A)."""
        best = (self.q >= self.q.max(1, keepdim=True).values).double()
        return best / best.sum(1, keepdim=True)

    def predict(self, obs: Tensor, *, deterministic: bool = True) -> Tensor:
        """The best known action for each observation, or with chance as in learning."""
        same = TableCounts().keys(obs.to(self.world.device))[:, None] == self._keys
        if not bool(same.any(1).all()):
            raise ValueError("'obs' must be what the world shows in one of its cells")
        cell = same.int().argmax(1)
        return self.q[cell].argmax(1) if deterministic else self._choose(cell)

    def act(
        self, obs: Any, state: Any = None, episode_start: Any = None, *, deterministic: bool = True
    ) -> tuple[Tensor, Any]:
        """The same along episodes: nothing has to be remembered."""
        del episode_start
        return self.predict(obs, deterministic=deterministic), state

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future, the world included."""
        model = {name: table.clone() for name, table in self.model.state_dict().items()}
        parts = {"q": self.q, "updates": self.updates, "model": model}
        counted = {"iteration": self.iteration, "total_steps": self.total_steps}
        return {**parts, **counted, "world": self.world.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in an agent made with the same arguments."""
        self.q, self.updates = state["q"].to(self.q), state["updates"].to(self.q)
        load_module_state(self.model, state["model"])
        self.world.load_state_dict(state["world"])
        self.iteration, self.total_steps = state["iteration"], state["total_steps"]

    def _choose(self, cell: Tensor) -> Tensor:
        """Chance with probability `epsilon`, else one of the best."""
        share = (1.0 - self.epsilon) * self.policy()[cell] + self.epsilon / self.actions
        return torch.multinomial(share, 1).squeeze(1)
