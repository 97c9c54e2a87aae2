"""Models with latent variables: p(x) is the integral of p(x | z) p(z) over z."""
