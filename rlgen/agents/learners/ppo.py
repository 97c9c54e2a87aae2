"""Proximal policy optimisation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlgen.agents.learners.learner import Batch, Learner, Models
from rlgen.agents.policy import ActorCritic
from rlgen.envs.world import World


class PPO(Learner):
    """Several epochs of minibatches on a surrogate that stops paying for large changes.

        L = -E[min(r A, clip(r, 1 - clip, 1 + clip) A)] + value_weight E[(V - R)^2] / 2
            - entropy_weight E[H(pi)],        r = pi(a|o) / pi_old(a|o)

    References:
        John Schulman, Filip Wolski, Prafulla Dhariwal, Alec Radford and Oleg Klimov. Proximal
        Policy Optimization Algorithms, 2017. https://arxiv.org/abs/1707.06347

    Args:
        world: what it lives in.
        model: policy and critic; by default two small networks for the world's spaces.
        reward_models: name -> a reward model, (model, weight), or a `Stream`; each has a value
            head of its own.
        steps: of each copy in one iteration.
        epochs: passes over each rollout.
        minibatch: steps in a minibatch; whole episodes' pieces where the policy has a memory.
        lr: of Adam.
        clip: how far the ratio may move before the surrogate stops paying.
        entropy_weight: of the policy's entropy at each step.
        value_weight: of the critic's loss.
        discount: of the world's rewards.
        trace: lambda of generalised advantage estimation.
        world_weight: of the world's own rewards; 0 leaves them out.
        temperature: of the entropy in the world's returns, the future's included; 0 for none.
        normalise: divide the world's rewards by the running standard deviation of their returns,
            and advantages by no less than a tenth of that. A world that pays nothing yet then
            leaves the policy to its entropy; divided by their own deviation alone, as without
            this, advantages that are only the critic's noise would steer it.
        max_norm: of the gradient.
        seed: of everything random here.

    Example:
        >>> from rlgen.agents import PPO
        >>> from rlgen.envs import FourRooms
        >>> agent = PPO(FourRooms(64, seed=0), seed=0)
        >>> agent = agent.learn(2 * 64 * 32, progress=False)
        >>> agent.predict(agent.world.reset()).shape
        torch.Size([64])
    """

    # what each gradient step descends beside its own loss
    beside: Callable[[], Tensor] | None = None

    def __init__(
        self,
        world: World,
        *,
        model: ActorCritic | None = None,
        reward_models: Models | None = None,
        steps: int = 32,
        epochs: int = 4,
        minibatch: int = 2048,
        lr: float = 1e-3,
        clip: float = 0.2,
        entropy_weight: float = 0.01,
        value_weight: float = 0.5,
        discount: float = 0.99,
        trace: float = 0.95,
        world_weight: float = 1.0,
        temperature: float = 0.0,
        normalise: bool = True,
        max_norm: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            world,
            model=model,
            reward_models=reward_models,
            steps=steps,
            discount=discount,
            trace=trace,
            world_weight=world_weight,
            temperature=temperature,
            normalise=normalise,
            seed=seed,
        )
        self.least_spread = 0.1 if normalise else 1e-8
        self.epochs, self.minibatch, self.clip = epochs, minibatch, clip
        self.entropy_weight, self.value_weight = entropy_weight, value_weight
        self.max_norm = max_norm
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # the fused kernel misreads gradients whose layout differs, as those of convolutions may
        fused = all(p.ndim <= 2 for p in self.parameters)
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, eps=1e-5, fused=fused)

    def update(self, batch: Batch) -> dict[str, float]:
        spread = batch.advantage.std().clamp_min(self.least_spread)
        whole = Sample(
            self.model.prepared(batch.rollout.obs),
            batch.rollout.action,
            batch.rollout.log_prob,
            (batch.advantage - batch.advantage.mean()) / spread,
            batch.returns,
            batch.rollout.first,
        )
        figures = []
        for _ in range(self.epochs):
            for sample, state in self._minibatches(whole, batch.rollout.state):
                loss, seen = self._loss(sample, state)
                if self.beside is not None:
                    loss = loss + self.beside()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
                self.optimizer.step()
                figures.append(seen)
        means = torch.stack(figures).mean(0).tolist()
        return {f"ppo/{name}": value for name, value in zip(_FIGURES, means, strict=True)}

    def _loss(self, sample: "Sample", state: Tensor) -> tuple[Tensor, Tensor]:
        pi, values = self.model.unroll(sample.obs, state, sample.first)
        log_ratio = pi.log_prob(sample.action) - sample.log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
        surrogate = torch.minimum(ratio * sample.advantage, clipped * sample.advantage).mean()
        value = 0.5 * (values - sample.returns).square().mean((0, 1)).sum()
        entropy = pi.entropy().mean()
        loss = self.value_weight * value - surrogate - self.entropy_weight * entropy
        with torch.no_grad():
            kl = (ratio - 1.0 - log_ratio).mean()
            outside = ((ratio - 1.0).abs() > self.clip).to(ratio.dtype).mean()
        return loss, torch.stack([surrogate, value, entropy, kl, outside]).detach()

    def _minibatches(self, whole: "Sample", state: Tensor) -> Iterator[tuple["Sample", Tensor]]:
        """Single steps in random order; with a memory, all steps of some copies."""
        steps, copies = whole.log_prob.shape
        if self.model.policy.net.memory:
            size = max(1, self.minibatch // steps)
            for index in torch.randperm(copies, device=state.device).split(size):
                yield Sample(*(p.index_select(1, index) for p in whole)), state[index]
            return
        flat = Sample(*(part.flatten(0, 1) for part in whole))
        for index in torch.randperm(steps * copies, device=state.device).split(self.minibatch):
            yield Sample(*(p.index_select(0, index)[None] for p in flat)), state[: len(index)]


class Sample(NamedTuple):
    """Steps to learn from, with shape (T, B, ...)."""

    obs: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor
    first: Tensor


_FIGURES = ("surrogate", "value", "entropy", "kl", "clipped")
