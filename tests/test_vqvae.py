"""L19: vector quantisation against k-means, its gradients, and the bound by enumeration."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from torch import Tensor

from rlgen.generative import VQVAE, Trainer, fit, heads
from rlgen.generative.data import digits
from tests import truth


def clusters(n: int = 2000, count: int = 8, seed: int = 0) -> Tensor:
    """Well separated, all equally likely."""
    generator = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(count) / count
    centres = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = centres[generator.integers(0, count, size=n)] + 0.3 * generator.normal(size=(n, 2))
    return truth.as_float(x)


def first(part: Any) -> Any:
    return part.net[0]


def identity(codes: int = 8, **options: float) -> VQVAE:
    """Encoder and decoder copy their input, so that nothing but the codebook can learn."""
    model = VQVAE(2, codes=codes, latent=2, hidden=(), head=heads.FixedNormal(1.0), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in (first(model.encoder), first(model.decoder)):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
    return model.double()


def nearest(z: truth.Array, vectors: truth.Array) -> NDArray[np.int64]:
    distance = ((z[..., None, :] - vectors) ** 2).sum(-1)
    return np.asarray(distance.argmin(-1), dtype=np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_l19_identity_networks_give_k_means(seed: int) -> None:
    """Distortion within 5 % of k-means, perplexity >= 7, for the codebook's own start."""
    x = clusters(seed=seed)
    torch.manual_seed(seed)
    model = identity(decay=0.9)
    trainer = Trainer(model, lr=1e-12, seed=seed)
    fit(model, x, steps=300, batch_size=256, trainer=trainer, progress=False)
    with torch.no_grad():
        remade = model.decode(model.encode(x).mean).mean
    distortion = float((remade - x).square().sum(1).mean())
    best = KMeans(8, n_init=10, random_state=0).fit(x.numpy()).inertia_ / len(x)
    assert distortion <= 1.05 * best
    assert model.perplexity(x) >= 7


def test_l19_perplexity_is_over_the_whole_data_set() -> None:
    """Trap: an average of perplexities of batches. Here each batch uses one code only."""
    x = clusters(800)
    model = identity()
    model.set_codebook(truth.as_float(KMeans(8, n_init=3, random_state=0).fit(x).cluster_centers_))
    codes = model.codes(x).flatten()
    x = x[codes.argsort()]
    exact = math.exp(truth.entropy(np.bincount(codes.numpy(), minlength=8) / len(x)))
    assert model.perplexity(x, batch_size=100) == pytest.approx(exact, rel=1e-6)
    assert model.perplexity(x) == pytest.approx(exact, rel=1e-6)
    assert model.perplexity(x[:1]) == pytest.approx(1.0)


def test_l19_quantise_takes_the_nearest_vector() -> None:
    model = VQVAE(4, codes=7, latent=3, positions=5).double()
    vectors = torch.randn(7, 3, dtype=torch.float64)
    model.set_codebook(vectors)
    z = torch.randn(20, 5, 3, dtype=torch.float64)
    made, codes = model.quantise(z)
    exact = nearest(z.numpy(), vectors.numpy())
    assert codes.shape == (20, 5) and codes.dtype == torch.int64
    assert (codes.numpy() == exact).all()
    assert (made - vectors[codes]).abs().max() < 1e-12
    assert torch.equal(model.codebook, vectors)


def test_l19_straight_through_gradient_is_the_decoders() -> None:
    """What arrives at the encoder's output is exactly what left the decoder's input."""
    model = VQVAE(4, codes=7, latent=3, positions=2, hidden=(16,)).double()
    model.set_codebook(torch.randn(7, 3, dtype=torch.float64))
    x = torch.randn(10, 4, dtype=torch.float64)
    z = torch.randn(10, 2, 3, dtype=torch.float64, requires_grad=True)
    made, codes = model.quantise(z)
    (at_encoder,) = torch.autograd.grad(model.decode(made).log_prob(x).sum(), z)
    inputs = model.embed(codes).detach().requires_grad_()
    (at_decoder,) = torch.autograd.grad(model.decode(inputs).log_prob(x).sum(), inputs)
    assert at_decoder.abs().max() > 1e-3
    torch.testing.assert_close(at_encoder, at_decoder, rtol=0, atol=1e-12)


@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_l19_loss_is_reconstruction_plus_commitment(commitment: float) -> None:
    """-log p(x | e) + commitment |z - sg(e)|^2, and what it pulls on. Trap: sg on the other one."""
    model = identity(codes=4, commitment=commitment)
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    with torch.no_grad():
        first(model.encoder).bias.copy_(shift)
    vectors = torch.tensor([[0, 0], [3, 0], [0, 3], [3, 3]], dtype=torch.float64)
    model.set_codebook(vectors)
    x = 3 * torch.rand(50, 2, dtype=torch.float64)
    z = x + shift
    e = vectors[nearest(z.numpy(), vectors.numpy())]
    nll = -stats.norm.logpdf(x.numpy(), e.numpy()).sum(1)
    expected = nll + commitment * ((z - e) ** 2).sum(1).numpy()
    np.testing.assert_allclose(truth.array(model.loss(x)), expected, atol=1e-10)
    loss = model.loss(x).sum()
    (pull,) = torch.autograd.grad(loss, first(model.encoder).bias)
    wanted = (e - x).sum(0) + 2 * commitment * (z - e).sum(0)
    torch.testing.assert_close(pull, wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(model.codebook, vectors)  # the loss itself changes nothing
    learnt = {id(p) for p in model.objectives()[0].parameters}
    assert all(id(p) in learnt for p in model.parameters()) and not model.codebook.requires_grad


def test_l19_moving_average_is_a_step_of_k_means() -> None:
    """decay = 0: one update puts each vector at the mean of the outputs that chose it."""
    x = clusters(500, seed=1)
    start = x[:: len(x) // 8][:8] + 0.5
    start = start[np.unique(nearest(x.numpy(), start.numpy()))]  # all of them used
    model = identity(codes=len(start), decay=0.0)
    model.set_codebook(start)
    vectors = start.numpy()
    for _ in range(3):
        chosen = nearest(x.numpy(), vectors)
        trainer = Trainer(model, lr=1e-12)
        trainer.step(x)
        vectors = np.stack([x.numpy()[chosen == k].mean(0) for k in range(len(start))])
        np.testing.assert_allclose(truth.array(model.codebook), vectors, atol=1e-6)


def test_l19_moving_average_forgets_at_its_rate() -> None:
    """e = m / N,  m <- decay m + (1 - decay) sum of z,  N <- decay N + (1 - decay) count."""
    x = clusters(400, seed=2)
    model = identity(codes=2, decay=0.8)
    model.set_codebook(torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64))
    trainer = Trainer(model, lr=1e-12)
    trainer.step(x)
    names = ("quantiser.counts", "quantiser.sums")
    state = model.state_dict()
    counts, sums = (truth.array(state[name]).copy() for name in names)
    vectors = truth.array(model.codebook).copy()
    other = clusters(400, seed=3) + 1
    chosen = nearest(other.numpy(), vectors)
    trainer.step(other)
    counts = 0.8 * counts + 0.2 * np.bincount(chosen, minlength=2)
    sums = 0.8 * sums + 0.2 * np.stack([other.numpy()[chosen == k].sum(0) for k in range(2)])
    np.testing.assert_allclose(truth.array(model.codebook), sums / counts[:, None], rtol=1e-3)


def test_l19_dead_codes_come_back() -> None:
    """Trap: vectors far from all data are never chosen, and never learn."""
    x = clusters(1000)
    model = identity(codes=8, decay=0.9)
    far = torch.full((8, 2), 1e3, dtype=torch.float64) + torch.arange(8)[:, None]
    far[0] = 0
    model.set_codebook(far)
    trainer = Trainer(model, lr=1e-12)
    fit(model, x, steps=400, batch_size=256, trainer=trainer, progress=False)
    assert model.perplexity(x) >= 7


@pytest.mark.parametrize("positions", [1, 2])
def test_l19_bound_is_below_the_sum_over_codes(positions: int) -> None:
    """log p(x) = log sum over all codes of P(c) p(x | e_c), of which the bound is one term."""
    model = VQVAE(3, codes=5, latent=2, positions=positions, hidden=(16,)).double()
    x = torch.randn(200, 3, dtype=torch.float64)
    fit(model, x, steps=400, batch_size=50, progress=False)
    model.eval()
    every = torch.tensor(list(itertools.product(range(5), repeat=positions)))
    with torch.no_grad():
        prior = truth.array(model.code_prior.log_prob(every))
        made = model.decode(model.embed(every))
        terms = np.stack([prior + truth.array(made.log_prob(row)) for row in x])
        bound = truth.array(model.elbo(x))
        codes = model.codes(x).reshape(200, positions).numpy()
    assert np.exp(prior).sum() == pytest.approx(1, abs=1e-9)
    index = codes @ 5 ** np.arange(positions - 1, -1, -1)
    np.testing.assert_allclose(bound, terms[np.arange(200), index], atol=1e-9)
    assert (bound <= logsumexp(terms, axis=1) + 1e-12).all()
    # P is the usage of the codes, up to the moving average and 1 % of uniform
    used = np.bincount(index, minlength=5**positions) / 200
    if positions == 1:
        assert truth.total_variation(used, np.exp(prior)) < 0.15
    assert torch.equal(model.elbo(x), model.elbo(x, samples=7))


def test_l19_samples_come_from_prior_and_decoder() -> None:
    model = identity(codes=8, decay=0.9)
    x = clusters(2000)
    fit(model, x, steps=200, batch_size=256, trainer=Trainer(model, lr=1e-12), progress=False)
    drawn = model.sample(20_000, generator=0)
    read = np.bincount(nearest(drawn.numpy(), truth.array(model.codebook)), minlength=8) / 20_000
    prior = np.exp(truth.array(model.code_prior.log_prob(torch.arange(8)[:, None])))
    assert truth.total_variation(read, prior) < 0.08  # unit noise sometimes crosses over
    assert float((drawn - x.mean(0)).square().sum(1).mean()) == pytest.approx(25 + 2, rel=0.1)


def test_l19_images_become_maps_of_codes() -> None:
    x = (digits().train[:512] >= 8).float()
    model = VQVAE((1, 8, 8), codes=16, latent=4, head=heads.Bernoulli())
    fit(model, x, steps=150, batch_size=64, lr=3e-3, progress=False)
    codes = model.codes(x)
    assert codes.ndim == 3 and codes.shape[0] == 512 and int(codes.max()) < 16
    with torch.no_grad():
        mean = model.encode(x).mean
        torch.testing.assert_close(mean, model.embed(codes))
        likelihood = truth.array(model.decode(mean).log_prob(x)).mean()
    p = truth.array(x.mean(0)).clip(1e-3, 1 - 1e-3)
    independent = (truth.array(x) * np.log(p) + (1 - truth.array(x)) * np.log1p(-p)).sum((1, 2, 3))
    assert likelihood > independent.mean() + 3
    assert model.perplexity(x) > 4
