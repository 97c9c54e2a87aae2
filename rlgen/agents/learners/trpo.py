"""Trust region policy optimisation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from rlgen.agents.learners.learner import Batch, Learner, Models
from rlgen.agents.policy import ActorCritic
from rlgen.envs.world import World

Product = Callable[[Tensor], Tensor]


class TRPO(Learner):
    """The largest step that changes the policy by at most `max_kl` nats on average.

        maximise E[pi(a|o) / pi_old(a|o) A]  subject to  E[KL(pi_old || pi)] <= max_kl

    The direction solves F x = g by conjugate gradients, F the Fisher matrix, through products with
    the Hessian of the KL; a line search then shortens the step until the bound holds and the
    surrogate has grown. The critic takes ordinary gradient steps.

    References:
        John Schulman, Sergey Levine, Philipp Moritz, Michael Jordan and Pieter Abbeel. Trust Region
        Policy Optimization, 2015. https://arxiv.org/abs/1502.05477

    Args:
        world: what it lives in.
        model: policy and critic; by default two small networks for the world's spaces.
        reward_models: name -> a reward model, (model, weight), or a `Stream`.
        steps: of each copy in one iteration.
        max_kl: nats that the policy may change by, on average.
        damping: added to the diagonal of F in the search for a direction.
        iterations: of conjugate gradients.
        value_steps: gradient steps of the critic.
        lr: of the critic's Adam.
        discount: of the world's rewards.
        trace: lambda of generalised advantage estimation.
        world_weight: of the world's own rewards; 0 leaves them out.
        temperature: of the entropy in the world's returns, the future's included; 0 for none.
        seed: of everything random here.

    Example:
        >>> from rlgen.agents import TRPO
        >>> from rlgen.envs import FourRooms
        >>> agent = TRPO(FourRooms(64, seed=0), seed=0)
        >>> agent = agent.learn(2 * 64 * 32, progress=False)
        >>> agent.predict(agent.world.reset()).shape
        torch.Size([64])
    """

    def __init__(
        self,
        world: World,
        *,
        model: ActorCritic | None = None,
        reward_models: Models | None = None,
        steps: int = 32,
        max_kl: float = 0.01,
        damping: float = 0.1,
        iterations: int = 10,
        value_steps: int = 10,
        lr: float = 3e-3,
        discount: float = 0.99,
        trace: float = 0.97,
        world_weight: float = 1.0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if max_kl <= 0:
            raise ValueError(f"'max_kl' must be positive, got {max_kl}")
        super().__init__(
            world,
            model=model,
            reward_models=reward_models,
            steps=steps,
            discount=discount,
            trace=trace,
            world_weight=world_weight,
            temperature=temperature,
            seed=seed,
        )
        self.max_kl, self.damping, self.iterations = max_kl, damping, iterations
        self.value_steps = value_steps
        self.parameters = [p for p in self.model.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.model.critic.parameters(), lr=lr)

    def update(self, batch: Batch) -> dict[str, float]:
        rollout = batch.rollout
        advantage = batch.advantage - batch.advantage.mean()
        advantage = advantage / advantage.std().clamp_min(1e-8)

        def policy() -> Distribution:
            return self.model.unroll(rollout.obs, rollout.state, rollout.first)[0]

        with torch.no_grad():
            old = policy()
            old_log_prob = old.log_prob(rollout.action)

        def surrogate(pi: Distribution) -> Tensor:
            return ((pi.log_prob(rollout.action) - old_log_prob).exp() * advantage).mean()

        step = self._step(policy, surrogate, old)
        return {**step, "trpo/value": self._fit_values(batch)}

    def _step(
        self,
        policy: Callable[[], Distribution],
        surrogate: Callable[[Distribution], Tensor],
        old: Distribution,
    ) -> dict[str, float]:
        pi = policy()
        before = surrogate(pi)
        gradient = flat(torch.autograd.grad(before, self.parameters, retain_graph=True))
        fisher = fisher_product(kl_divergence(old, pi).mean(), self.parameters)
        direction = conjugate_gradient(
            lambda v: fisher(v) + self.damping * v, gradient, self.iterations
        )
        # the length is by F itself: damping only bends the direction
        curvature = direction @ fisher(direction)
        length = (2.0 * self.max_kl / curvature.clamp_min(1e-12)).sqrt()
        start, steepness = flat(self.parameters).clone(), float(gradient.norm())
        metrics = {"trpo/kl": 0.0, "trpo/gain": 0.0, "trpo/shrink": 0.0, "trpo/gradient": steepness}
        with torch.no_grad():
            for shrink in (0.8**k for k in range(20)):
                set_flat(self.parameters, start + shrink * length * direction)
                pi = policy()
                kl, after = kl_divergence(old, pi).mean(), surrogate(pi)
                if kl <= self.max_kl and after > before:
                    gain = float(after - before)
                    taken = {"trpo/kl": float(kl), "trpo/gain": gain, "trpo/shrink": shrink}
                    return metrics | taken
            set_flat(self.parameters, start)
        return metrics

    def _fit_values(self, batch: Batch) -> float:
        rollout = batch.rollout
        loss = torch.zeros(())
        for _ in range(self.value_steps):
            state = rollout.state.chunk(2, dim=1)[1]
            values = self.model.critic.unroll(rollout.obs, state, rollout.first)
            loss = 0.5 * (values - batch.returns).square().mean((0, 1)).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())


def fisher_product(kl: Tensor, parameters: Sequence[Tensor]) -> Product:
    """v -> H v, with H the Hessian of the mean KL(old || pi) where pi is still old.

    There the Hessian is the Fisher matrix. `old` must be detached and pi not: were both, or
    neither, the Hessian would be zero or another matrix.
    """
    gradient = flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(gradient @ v, parameters, retain_graph=True)).detach()

    return product


def conjugate_gradient(
    product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """x with product(x) = target, for a symmetric positive definite product.

    It stops early where the squared residual is below `tolerance` times that of x = 0.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, square = residual.clone(), residual @ residual
    stop = tolerance * square
    for _ in range(iterations):
        if square <= stop:
            break
        image = product(direction)
        along = square / (direction @ image)
        x = x + along * direction
        residual = residual - along * image
        after = residual @ residual
        direction = residual + (after / square) * direction
        square = after
    return x


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of `tensors` in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def set_flat(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Write a vector made by `flat` back."""
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, vector.split(sizes), strict=True):
        parameter.data.copy_(part.view_as(parameter))
