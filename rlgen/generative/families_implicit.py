"""Entries of the catalogue: games, energies, diffusion, functions and contrasts."""

from functools import partial

from rlgen import generative as g
from rlgen.generative.catalogue import Family

IMPLICIT = (
    Family(
        g.GAN,
        "real numbers; images by convolutions",
        "Goodfellow et al. 2014",
        "a ring of 8 normals: at least 7 found, by at least 80 % of samples",
        (
            partial(g.GAN, 2, latent=3, hidden=(8,)),
            partial(g.GAN, (), latent=1, hidden=(8,), game=g.Minimax(), r1=0.1),
            partial(g.GAN, (1, 8, 8), latent=2, hidden=(8,)),
        ),
    ),
    Family(
        g.WGAN,
        "real numbers; images by convolutions",
        "Arjovsky et al. 2017",
        "the critic over its slope is at most W_1 of two shifted normals, and grows with it",
        (
            partial(g.WGAN, 2, latent=3, hidden=(8,)),
            partial(g.WGAN, (1, 8, 8), latent=2, hidden=(8,)),
        ),
    ),
    Family(
        g.WGANGP,
        "real numbers; images by convolutions",
        "Gulrajani et al. 2017",
        "normals shifted by d = 1, 2, 4: d (1 + d / 20) to 3 %",
        (
            partial(g.WGANGP, 2, latent=3, hidden=(8,)),
            partial(g.WGANGP, (), latent=1, hidden=(8,)),
        ),
    ),
    Family(
        g.InfoGAN,
        "real numbers; images by convolutions",
        "Chen et al. 2016",
        "4 clusters: the bound is at least 0.9 ln 4 and the purity of codes at least 95 %",
        (
            partial(g.InfoGAN, 2, categories=3, latent=2, hidden=(8,)),
            partial(g.InfoGAN, (), categories=0, continuous=2, latent=1, hidden=(8,)),
            partial(g.InfoGAN, (1, 8, 8), continuous=1, latent=2, hidden=(8,)),
        ),
    ),
    Family(
        g.MMDGenerator,
        "real numbers; images by convolutions",
        "Li et al. 2015; Dziugaite et al. 2015",
        "a ring of 8 normals: mean and covariance within 5 %",
        (
            partial(g.MMDGenerator, 2, latent=3, hidden=(8,)),
            partial(g.MMDGenerator, (), latent=1, hidden=(8,)),
        ),
        compares=True,
    ),
    Family(
        g.RBM,
        "bits",
        "Smolensky 1986; Hinton 2002; Tieleman 2008",
        "NLL <= 5.0 nats, exactly, on bars and stripes of 16 bits",
        (
            partial(g.RBM, 6, hidden=4, chains=32),
            partial(g.RBM, (2, 2), hidden=6, persistent=False, steps=2),
        ),
        context="none",
    ),
    Family(
        g.EnergyModel,
        "real numbers; images by convolutions",
        "LeCun et al. 2006; Du and Mordatch 2019",
        "NLL <= entropy + 0.15 nats, by quadrature, on four modes",
        (
            partial(
                g.EnergyModel,
                2,
                hidden=(8,),
                sampler=g.energy.MALA(steps=2),
                buffer=16,
                reinit=0.5,
            ),
            partial(
                g.EnergyModel,
                (),
                hidden=(8,),
                sampler=g.energy.Langevin(step=0.1, steps=2),
                buffer=16,
                reinit=0.5,
            ),
            partial(
                g.EnergyModel,
                (1, 8, 8),
                sampler=g.energy.MALA(steps=2),
                buffer=16,
                reinit=0.5,
            ),
        ),
    ),
    Family(
        g.DDPM,
        "real numbers",
        "Ho et al. 2020",
        "the full bound of a Gaussian, whose optimum is known, to 1e-3 nats",
        (
            partial(
                g.DDPM, 2, steps=5, schedule=g.diffusion.Linear(last=0.002), hidden=(16,)
            ),
            partial(
                g.DDPM,
                (),
                steps=4,
                schedule=g.diffusion.Cosine(),
                variance="posterior",
                hidden=(16,),
            ),
        ),
    ),
    Family(
        g.ScoreSDE,
        "real numbers",
        "Song et al. 2021",
        "density of a mixture by its exact score: 2e-5 but for the prior, 0.02 with it",
        (
            partial(
                g.ScoreSDE,
                2,
                sde=g.VP(beta_max=5.0, cutoff=0.01),
                hidden=(8,),
                solver=g.diffusion.RungeKutta(8),
            ),
            partial(
                g.ScoreSDE,
                (),
                sde=g.VE(high=5.0),
                likelihood_weighting=False,
                hidden=(16,),
                solver=g.diffusion.RungeKutta(20),
            ),
        ),
    ),
    Family(
        g.GaussianProcess,
        "values of a function at points",
        "Rasmussen and Williams 2006",
        "posterior and marginal likelihood of scikit-learn to 1e-6",
        (
            partial(g.GaussianProcess, 2, noise=0.5),
            lambda: g.GaussianProcess(3, inputs=2, kernel=g.kernels.Matern(), noise=0.5),
        ),
        context="required",
    ),
    Family(
        g.VFunc,
        "functions, known by their values at a few points",
        "Bachman et al. 2018",
        "lines: within 0.15 nats a function of the exact evidence",
        (
            lambda: g.VFunc(
                3,
                g.functions.FunctionMLP(2, hidden=(8,)),
                prior=g.functions.StandardNormal(2),
                comparison=g.functions.Direct(g.functions.StandardNormal(2), hidden=(8,)),
                head=g.heads.FixedNormal(2.0),
            ),
            lambda: g.VFunc(
                (2, 2),
                g.functions.FunctionMLP(1, inputs=(1, 2), outputs=2, hidden=(8,)),
                inputs=(1, 2),
                prior=g.functions.StandardNormal(1),
                comparison=g.functions.Difference(
                    1, inputs=(1, 2), outputs=2, hidden=(8,), scale=1.0
                ),
                head=g.heads.FixedNormal(1.0),
            ),
        ),
        context="required",
    ),
    Family(
        g.FunctionRegression,
        "numbers at points, where unlabelled points are many",
        "Bachman et al. 2018",
        "6 points: within 0.15 of a Gaussian process, 0.5 to 1.5 times as unsure in the gap",
        (
            lambda: g.FunctionRegression(
                g.VFunc(
                    3,
                    g.functions.FunctionMLP(2, inputs=2, hidden=(8,)),
                    inputs=2,
                    prior=g.functions.StandardNormal(2),
                ),
                process=g.GaussianProcess(3, inputs=2),
                examples=64,
                draws=2,
            ),
        ),
        context="required",
    ),
    Family(
        g.CPC,
        "real numbers and images, in pairs with their contexts",
        "van den Oord et al. 2018",
        "information of correlated Gaussians: 1.25 to 1.46 of 1.44 nats, from batches of 256",
        (
            partial(g.CPC, 3, context_shape=2, features=4, hidden=(8,), bank=64),
            partial(g.CPC, (1, 8, 8), context_shape=2, features=4, hidden=(8,), bank=64),
        ),
        context="required",
        compares=True,
    ),
)  # fmt: skip
