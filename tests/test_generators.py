"""What InfoGAN, MMDGenerator and sinkhorn do inside, which their bars cannot see."""

import math

import pytest
import torch
from torch import distributions as D

from rlgen.generative import InfoGAN, MMDGenerator, fit, metrics
from rlgen.generative.adversarial.infogan import CodePosterior
from rlgen.seeding import drawing_from


def test_the_posterior_of_a_code_is_a_category_and_numbers() -> None:
    logits, mean, scale = torch.randn(5, 3), torch.randn(5, 2), torch.rand(5, 2) + 0.1
    q = CodePosterior(logits, D.Normal(mean, scale))
    codes = q.sample()
    assert codes.shape == (5, 5) and q.sample(torch.Size([7])).shape == (7, 5, 5)
    assert torch.equal(codes[:, :3].sum(1), torch.ones(5))
    category = D.Categorical(logits=logits).log_prob(codes[:, :3].argmax(1))
    numbers = D.Normal(mean, scale).log_prob(codes[:, 3:]).sum(1)
    torch.testing.assert_close(q.log_prob(codes), category + numbers)
    torch.testing.assert_close(q.mean, torch.cat([logits.softmax(1), mean], 1))


def test_the_bound_of_numbers_alone_counts_their_entropy() -> None:
    """With a posterior N(0, s) for codes uniform on [-1, 1], exactly."""
    model = InfoGAN(1, categories=0, continuous=2)
    for parameter in model.recogniser.parameters():
        torch.nn.init.zeros_(parameter)
    scale = 1.001  # of a head whose outputs are 0
    expected = 2 * (math.log(2) - 0.5 * math.log(2 * math.pi * scale**2) - 1 / (6 * scale**2))
    information = model.information(20_000, generator=0)
    assert float(information.mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("codes", [torch.eye(4)[:2], torch.zeros(3, 5), torch.eye(4)[:3].double()])
def test_codes_that_do_not_fit_are_refused(codes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="'codes'"):
        InfoGAN(2).sample_with_codes(3, codes=codes)


def test_the_loss_of_a_large_batch_is_that_of_its_blocks() -> None:
    """Memory does not grow with the square of the batch."""
    model = MMDGenerator(2)
    x = torch.randn(1500, 2)
    with drawing_from(0):
        z = torch.randn(1500, model.latent)
        with drawing_from(0):
            loss = model.loss(x)
    y = model.generator(z)
    for part in (slice(0, 750), slice(750, 1500)):
        of_both = torch.cat([x[part], y[part].detach()])
        scale = torch.cdist(of_both, of_both).square().mean().sqrt()  # with the zeros
        widths = [float(scale) * b for b in model.bandwidths]
        # pairs of one example and its own sample are left out, a difference of order 1 / n
        expected = metrics.mmd2(x[part], y[part], bandwidth=widths)
        torch.testing.assert_close(loss[part].mean(), expected, rtol=0.02, atol=1e-3)


def test_a_lone_example_has_nothing_to_be_compared_with() -> None:
    assert MMDGenerator(2).loss(torch.randn(1, 2)).tolist() == [0.0]


def test_samples_follow_the_context() -> None:
    torch.manual_seed(0)
    label = torch.randint(2, (4000,))
    context = torch.eye(2)[label]
    x = 4.0 * label[:, None] - 2.0 + 0.5 * torch.randn(4000, 1)
    model = MMDGenerator(1, context_shape=2)
    fit(model, x, context, steps=200, lr=1e-2, batch_size=128)
    for c, mean in ((0, -2.0), (1, 2.0)):
        assert float(model.sample(2000, torch.eye(2)[c]).mean()) == pytest.approx(mean, abs=0.4)


def test_samples_come_from_an_average_of_the_weights() -> None:
    model = MMDGenerator(2)
    first = [p.clone() for p in model.averaged.parameters()]
    fit(model, torch.randn(64, 2), steps=1)
    for before, average, latest in zip(
        first, model.averaged.parameters(), model.generator.parameters(), strict=True
    ):
        assert not average.requires_grad
        torch.testing.assert_close(average.data, before + (latest - before) * 9 / 11)


def test_the_gradient_of_a_transport_is_its_plan() -> None:
    cost = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    transport = metrics.sinkhorn(cost, epsilon=0.05)
    (gradient,) = torch.autograd.grad(transport.cost, cost)
    assert torch.equal(gradient, transport.plan)
