"""Counting codes: observations that a quantising autoencoder takes for the same."""

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlgen.agents.exploration.counts import Counts, KeyTable, mixed
from rlgen.agents.exploration.memory import Rehearsal, as_data
from rlgen.agents.transitions import Transitions
from rlgen.generative import GenerativeModel, Trainer, unchecked
from rlgen.generative.model import evaluating

_CHUNK = 2048


@runtime_checkable
class Coder(Protocol):
    """A model with discrete codes, integers with shape (B, *positions)."""

    def codes(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...


class CodeCounts(Counts):
    """Counts of codes: what an autoencoder with a codebook gives the same codes is the same.

        bonus = 1 / sqrt(N(c(o')))

    The autoencoder learns online, so the meaning of its codes moves, and a code that was dead comes
    back elsewhere with the visits of its former life. Hence nothing is counted for good: after each
    update a uniform sample of all that was seen is encoded again and counted, times what one of the
    sample stands for. With `updates=0` the codes stay, and their counts are exact.

    What has no code of its own yet shares that of something else, and its visits: an autoencoder
    that is slow, or has few codes, does not notice what is new. A head with a small scale, as
    below, makes it take note.

    References:
        Haoran Tang et al. #Exploration: A Study of Count-Based Exploration for Deep Reinforcement
        Learning, 2017. https://arxiv.org/abs/1611.04717
        Aaron van den Oord, Oriol Vinyals and Koray Kavukcuoglu. Neural Discrete Representation
        Learning, 2017. https://arxiv.org/abs/1711.00937

    Args:
        encoder: a `VQVAE`, or any model with `codes(x)`; it learns in place.
        features: turns observations into the model's x; None reshapes them to its event_shape.
        lr: of the model's Adam.
        updates: gradient steps for each call of `update`; 0 leaves a trained model as it is.
        batch_size: of those, half of it fresh.
        memory: observations kept, a uniform sample of all that were ever seen.
        seed: of everything random.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.agents.exploration import CodeCounts
        >>> from rlgen.envs import FourRooms
        >>> from rlgen.generative import VQVAE, heads
        >>> counts = CodeCounts(VQVAE(104, codes=256, head=heads.FixedNormal(0.1)))
        >>> agent = PPO(FourRooms(64, seed=0), reward_models={"codes": counts})
        >>> agent = agent.learn(64 * 32, progress=False)
    """

    def __init__(
        self,
        encoder: GenerativeModel,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        lr: float = 3e-3,
        updates: int = 32,
        batch_size: int = 256,
        memory: int = 2**14,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(encoder, type) or not isinstance(encoder, Coder):
            raise TypeError(
                f"{type(self).__name__} needs codes (codes); {type(encoder).__name__} has none. "
                "Families with them: VQVAE"
            )
        self.encoder, self.features, self.updates = encoder, features, updates
        self.trainer = Trainer(encoder, lr=lr, seed=seed)
        self.rehearsal = Rehearsal(updates=updates, batch_size=batch_size, memory=memory, seed=seed)

    def data(self, obs: Tensor) -> Tensor:
        """Observations as the model's x."""
        return as_data(obs if self.features is None else self.features(obs), self.encoder)

    def keys(self, obs: Tensor) -> Tensor:
        return self._keys(self.data(obs))

    def update(self, t: Transitions) -> dict[str, float]:
        """Learn from the steps and from earlier ones, and count again."""
        x = self.data(t.next_obs)
        if self.updates == 0:
            return super().update(t)
        loss = torch.zeros(())
        with unchecked():
            for (batch,) in self.rehearsal.batches(x):
                loss = self.trainer.step(batch)["loss"]
        (sample,) = self.rehearsal.parts
        assert sample.kept is not None
        self.table = KeyTable()
        self.table.add(self._keys(sample.kept[: sample.filled]))
        stands_for = sample.seen / sample.filled
        self.table.counts = (self.table.counts.double() * stands_for).round().long()
        return {"nats": float(loss), "distinct": float(len(self.table.keys))}

    def state_dict(self) -> dict[str, Any]:
        state = {
            "trainer": self.trainer.state_dict(),
            "rehearsal": self.rehearsal.state_dict(),
            **super().state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)  # or optimisers would share what they change in place
        super().load_state_dict(state)
        self.trainer.load_state_dict(state["trainer"])
        self.rehearsal.load_state_dict(state["rehearsal"])

    @torch.no_grad()
    def _keys(self, x: Tensor) -> Tensor:
        assert isinstance(self.encoder, Coder)
        with evaluating(self.encoder), unchecked():
            parts = [self.encoder.codes(part).flatten(1) for part in x.split(_CHUNK)]
        return mixed(torch.cat(parts))
