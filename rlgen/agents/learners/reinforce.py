"""The policy gradient, with values as a baseline."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlgen.agents.learners.learner import Batch, Learner, Models
from rlgen.agents.policy import ActorCritic
from rlgen.envs.world import World


class REINFORCE(Learner):
    """One gradient step per rollout on log pi(a|o) weighted by what came after.

        grad J = E[sum over t of grad log pi(a_t|o_t) (R_t - V(o_t))],
        R_t    = r_t + discount r_{t+1} + ... up to the episode's end

    The future beyond a rollout or a time limit is the critic's guess. The critic learns from the
    same returns and does not look at the action, so it leaves the expectation as it is.

    References:
        Ronald Williams. Simple Statistical Gradient-Following Algorithms for Connectionist
        Reinforcement Learning, 1992. https://doi.org/10.1007/BF00992696

    Args:
        world: what it lives in.
        model: policy and critic; by default two small networks for the world's spaces.
        reward_models: name -> a reward model, (model, weight), or a `Stream`.
        steps: of each copy in one iteration.
        lr: of Adam.
        entropy_weight: of the policy's entropy at each step.
        value_weight: of the critic's loss.
        normalise: divide advantages by their standard deviation; the gradient is then a scaled one.
        discount: of the world's rewards.
        trace: 1 for returns; less trusts the critic.
        world_weight: of the world's own rewards; 0 leaves them out.
        temperature: of the entropy in the world's returns, the future's included; 0 for none.
        seed: of everything random here.

    Example:
        >>> from rlgen.agents import REINFORCE
        >>> from rlgen.envs import FourRooms
        >>> agent = REINFORCE(FourRooms(64, seed=0), seed=0)
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
        lr: float = 3e-3,
        entropy_weight: float = 0.01,
        value_weight: float = 0.5,
        normalise: bool = True,
        discount: float = 0.99,
        trace: float = 1.0,
        world_weight: float = 1.0,
        temperature: float = 0.0,
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
            seed=seed,
        )
        self.entropy_weight, self.value_weight = entropy_weight, value_weight
        self.normalise = normalise
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)

    def update(self, batch: Batch) -> dict[str, float]:
        rollout = batch.rollout
        pi, values = self.model.unroll(rollout.obs, rollout.state, rollout.first)
        advantage = batch.advantage
        if self.normalise:
            advantage = advantage / advantage.std().clamp_min(1e-8)
        objective = (pi.log_prob(rollout.action) * advantage).mean()
        value = 0.5 * (values - batch.returns).square().mean((0, 1)).sum()
        entropy = pi.entropy().mean()
        self.optimizer.zero_grad()
        loss = self.value_weight * value - objective - self.entropy_weight * entropy
        if self.beside is not None:
            loss = loss + self.beside()
        loss.backward()
        self.optimizer.step()
        figures = torch.stack([objective, value, entropy]).tolist()
        names = ("objective", "value", "entropy")
        return {f"reinforce/{name}": v for name, v in zip(names, figures, strict=True)}
