"""Entries of the catalogue: densities, and models with bounds and codes."""

from functools import partial

from rlgen import generative as g
from rlgen.generative.catalogue import Family

EXPLICIT = (
    Family(
        g.Gaussian,
        "real numbers",
        "Gauss 1809",
        "the closed-form maximum of the likelihood, and scipy's density to 1e-6",
        (
            partial(g.Gaussian, 3),
            partial(g.Gaussian, (2, 2), full=True),
            partial(g.Gaussian, (), full=True),
        ),
        context="none",
    ),
    Family(
        g.Categorical,
        "symbols",
        "textbook",
        "exactly the frequencies of the data",
        (partial(g.Categorical, 4), partial(g.Categorical, (2, 2), categories=3)),
        context="none",
    ),
    Family(
        g.BayesNet,
        "symbols",
        "Pearl 1988",
        "exactly the conditional frequencies of the data",
        (
            partial(g.BayesNet, 4, parents=[(), (0,), (0, 1), (2,)]),
            partial(g.BayesNet, 3, parents=[(2,), (), (1,)], categories=3),
        ),
        context="none",
    ),
    Family(
        g.GaussianMixture,
        "real numbers",
        "Dempster et al. 1977",
        "scikit-learn's EM, iteration by iteration, to 1e-8 nats",
        (
            partial(g.GaussianMixture, 2, components=3),
            partial(g.GaussianMixture, (2, 2), components=3, covariance="diagonal"),
            partial(g.GaussianMixture, (), components=2),
        ),
        context="none",
    ),
    Family(
        g.CategoricalMixture,
        "symbols",
        "Dempster et al. 1977",
        "recovers three planted classes with an adjusted Rand index of at least 0.95",
        (
            partial(g.CategoricalMixture, 4, components=3),
            partial(g.CategoricalMixture, (2, 2), components=2, categories=3),
        ),
        context="none",
    ),
    Family(
        g.MixtureDensityNetwork,
        "real numbers, or whatever the head is over",
        "Bishop 1994",
        "NLL <= entropy + 0.03 nats where the context moves two branches",
        (
            partial(g.MixtureDensityNetwork, 2, context_shape=3, components=2),
            partial(
                g.MixtureDensityNetwork, (2, 2), context_shape=3, head=g.heads.Bernoulli()
            ),
        ),
        context="required",
    ),
    Family(
        g.FVSBN,
        "bits",
        "Neal 1992; Frey 1998",
        "an exclusive or of two bits costs it exactly 3 ln 2 nats",
        (partial(g.FVSBN, 6), partial(g.FVSBN, (2, 2), order=(2, 0, 3, 1))),
    ),
    Family(
        g.NADE,
        "whatever the head is over; bits by default",
        "Larochelle and Murray 2011",
        "KL <= 0.05 nats to a random 10-bit RBM, from 20 000 samples",
        (
            partial(g.NADE, 6, hidden=16),
            partial(g.NADE, 4, head=g.heads.Categorical(3), hidden=16),
            partial(g.NADE, 2, head=g.heads.Normal(), hidden=16, order=(1, 0)),
        ),
    ),
    Family(
        g.RNADE,
        "real numbers",
        "Uria et al. 2013",
        "NLL <= entropy + 0.03 nats on a banana",
        (partial(g.RNADE, 2, hidden=16), partial(g.RNADE, (1, 2), hidden=16, order=(1, 0))),
    ),
    Family(
        g.MADE,
        "whatever the head is over; bits by default",
        "Germain et al. 2015",
        "KL <= 0.05 nats to a random 10-bit RBM, from 20 000 samples",
        (
            partial(g.MADE, 6, hidden=(16,)),
            partial(g.MADE, 4, head=g.heads.Categorical(3), hidden=(16, 16), direct=True),
            partial(
                g.MADE, (1, 2), head=g.heads.MixtureOfNormals(2), hidden=(16,), order=(1, 0)
            ),
        ),
    ),
    Family(
        g.PixelCNN,
        "images: whatever the head is over; bits by default",
        "van den Oord et al. 2016",
        "binarised digits: at least 20 % below independent pixels",
        (
            partial(g.PixelCNN, (1, 3, 3), channels=4, layers=2),
            partial(g.PixelCNN, (2, 2, 2), channels=4, layers=2),
            partial(
                g.PixelCNN, (1, 2, 2), head=g.heads.Categorical(3), channels=4, layers=2
            ),
            partial(
                g.PixelCNN,
                (1, 2, 2),
                head=g.heads.DiscretisedLogisticMixture(4, 2),
                channels=4,
                layers=2,
            ),
            partial(g.PixelCNN, (1, 3, 3), channels=4, layers=2, gated=False),
        ),
    ),
    Family(
        g.CausalTransformer,
        "sequences of symbols",
        "Vaswani et al. 2017; Radford et al. 2019",
        "NLL <= entropy rate + 0.02 nats per symbol on an order-2 Markov chain",
        (partial(g.CausalTransformer, 4, symbols=3, width=16, layers=2, attention_heads=2),),
    ),
    Family(
        g.RealNVP,
        "real numbers",
        "Dinh et al. 2017",
        "NLL <= entropy + 0.05 nats on a banana",
        (
            partial(g.RealNVP, 2, transforms=2, hidden=(8,)),
            partial(g.RealNVP, 1, transforms=2, hidden=(8,)),
        ),
    ),
    Family(
        g.MAF,
        "real numbers",
        "Papamakarios et al. 2017",
        "one layer: NLL <= entropy + 0.03 nats on a banana in the right order only",
        (
            partial(g.MAF, 2, transforms=2, hidden=(8,)),
            partial(g.MAF, (1, 2), transforms=1, hidden=(8,), order=(1, 0)),
        ),
    ),
    Family(
        g.IAF,
        "real numbers; for its own samples",
        "Kingma et al. 2016",
        "log q of one-pass samples equals the inverse of MAF to 1e-5 nats",
        (
            partial(g.IAF, 2, transforms=2, hidden=(8,)),
            partial(g.IAF, (1, 2), transforms=1, hidden=(8,), order=(1, 0)),
        ),
    ),
    Family(
        g.Dequantised,
        "ordered symbols, such as grey levels",
        "Theis et al. 2016",
        "the bound is at most the exact log mass, by quadrature",
        (
            lambda context_shape=None: g.Dequantised(
                g.RealNVP(2, transforms=2, hidden=(8,), context_shape=context_shape), levels=4
            ),
            lambda context_shape=None: g.Dequantised(
                g.MAF((1, 2), transforms=1, hidden=(8,), context_shape=context_shape), levels=4
            ),
        ),
    ),
    Family(
        g.VAE,
        "whatever the head is over; images by convolutions",
        "Kingma and Welling 2014",
        "linear: within 0.05 nats of probabilistic PCA's maximum likelihood",
        (
            partial(g.VAE, 6, latent=2, head=g.heads.Bernoulli(), hidden=(16,)),
            partial(g.VAE, 2, latent=1, hidden=(), shared_scale=True),
            partial(g.VAE, 3, latent=2, head=g.heads.Categorical(3), hidden=(16,)),
        ),
    ),
    Family(
        g.VQVAE,
        "whatever the head is over; images by convolutions",
        "van den Oord et al. 2017",
        "8 clusters: distortion within 5 % of k-means, perplexity at least 7",
        (
            partial(g.VQVAE, 6, codes=4, latent=2, head=g.heads.Bernoulli(), hidden=(16,)),
            partial(g.VQVAE, 2, codes=8, latent=2, positions=2, hidden=(16,)),
            partial(g.VQVAE, (1, 8, 8), codes=8, latent=4, head=g.heads.FixedNormal()),
        ),
        context="none",
    ),
)  # fmt: skip
