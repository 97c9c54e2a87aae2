"""Games: what the bars of their families do not show."""

import pytest
import torch
from torch import Tensor, nn

from rlgen.generative import GAN, WGAN, WGANGP, Critic, Minimax, Wasserstein, fit
from rlgen.generative.adversarial.games import gradient_norm


class Fixed(nn.Module):
    """Samples of N(1, 1) that nothing trains."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return 1.0 + z


@pytest.mark.parametrize("make", [GAN, WGAN, WGANGP])
def test_a_generator_without_parameters_stays_and_the_critic_learns(
    make: type[GAN] | type[WGAN] | type[WGANGP],
) -> None:
    model = make(1, latent=1, generator=Fixed())
    assert [objective.name for objective in model.objectives()] == ["critic"]
    history = fit(model, torch.randn(500, 1), steps=20, validation=0.2)
    assert list(history.losses) == ["critic"] and history.validation


@pytest.mark.parametrize("seed", range(6))
def test_the_penalty_does_not_hold_the_critic_on_a_wrong_slope(seed: int) -> None:
    """In one dimension the slope -(1 - d / 20) is a local optimum: half of all starts end there."""
    torch.manual_seed(seed)
    model = WGANGP(1, latent=1, lr=1e-3, generator=Fixed())
    assert torch.equal(model.critic.logits(torch.randn(5, 1)), torch.zeros(5))
    fit(model, torch.randn(2000, 1) - 3.0, steps=60, seed=seed)
    assert model.wasserstein_estimate(torch.randn(1000, 1) - 3.0) > 1.0


def test_wasserstein_critics_have_no_offset_that_nothing_could_learn() -> None:
    for shape in ((2,), (1, 8, 8)):
        with_offset, without = Critic(shape), Critic(shape, offset=False)
        assert len([*with_offset.parameters()]) == len([*without.parameters()]) + 1
        assert [*without.parameters()][-1].ndim == 2


def test_the_norm_of_a_gradient_is_differentiable_without_outer_gradients_too() -> None:
    critic = Critic((1, 8, 8)).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    asked = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(asked).sum(), asked)
    with torch.no_grad():
        silent = gradient_norm(critic, x)
    torch.testing.assert_close(silent, slope.flatten(1).norm(dim=1))
    loss = gradient_norm(critic, x).sum()
    gradients = torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)
    assert any(g is not None and g.count_nonzero() > 0 for g in gradients)


def test_several_samples_for_each_x_sharpen_the_estimate() -> None:
    torch.manual_seed(0)
    model = WGAN(2, context_shape=3)
    x, context = torch.randn(50, 2), torch.randn(50, 3)
    one, many = (
        [model.wasserstein_estimate(x, context, samples=k) for _ in range(20)] for k in (1, 50)
    )
    assert torch.tensor(many).std() < 0.5 * torch.tensor(one).std()


def test_wrong_arguments_are_named() -> None:
    for wrong in ({"latent": 0}, {"r1": -1.0}, {"hidden": (0,)}, {"critic": Critic(3)}):
        with pytest.raises(ValueError, match=f"'{next(iter(wrong))}'"):
            GAN(2, **wrong)  # type: ignore[arg-type]
    for make in (WGAN, WGANGP):
        for name in ("lr", "critic_steps", "latent"):
            with pytest.raises(ValueError, match=f"'{name}'"):
                make(2, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'clip'"):
        WGAN(2, clip=0.0)
    with pytest.raises(ValueError, match="'penalty'"):
        WGANGP(2, penalty=0.0)
    with pytest.raises(ValueError, match="'samples'"):
        WGAN(2).wasserstein_estimate(torch.randn(3, 2), samples=0)
    with pytest.raises(ValueError, match="'context' must hold 3"):
        Critic(2, context_shape=1).logits(torch.randn(3, 2), torch.randn(2, 1))
    assert Minimax() == Minimax() and Wasserstein() != Minimax()
