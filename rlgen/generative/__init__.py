"""Generative models behind one contract: read `model.py` first.

It knows x and context, and needs torch and numpy alone.
"""

from rlgen.generative import data, diffusion, energy, flows, heads, metrics
from rlgen.generative.adversarial.critic import Critic
from rlgen.generative.adversarial.games import (
    Minimax,
    NonSaturating,
    Wasserstein,
    gradient_penalty,
    r1_penalty,
)
from rlgen.generative.adversarial.gan import GAN
from rlgen.generative.adversarial.infogan import InfoGAN
from rlgen.generative.adversarial.mmd import MMDGenerator
from rlgen.generative.adversarial.wasserstein import WGAN, WGANGP
from rlgen.generative.autoregressive.fvsbn import FVSBN
from rlgen.generative.autoregressive.made import MADE
from rlgen.generative.autoregressive.nade import NADE, RNADE
from rlgen.generative.autoregressive.pixelcnn import PixelCNN
from rlgen.generative.autoregressive.transformer import CausalTransformer
from rlgen.generative.basic import BayesNet, Categorical, Gaussian
from rlgen.generative.catalogue import Family, capabilities, catalogue, require
from rlgen.generative.contrastive.cpc import CPC
from rlgen.generative.diffusion.ddpm import DDPM
from rlgen.generative.diffusion.score_sde import ScoreSDE
from rlgen.generative.diffusion.sde import VE, VP
from rlgen.generative.energy.energy_model import EnergyModel
from rlgen.generative.energy.rbm import RBM
from rlgen.generative.fitting import History, cosine, fit
from rlgen.generative.flows.autoregressive import IAF, MAF
from rlgen.generative.flows.coupling import RealNVP
from rlgen.generative.flows.dequantise import Dequantised
from rlgen.generative.flows.flow import Flow
from rlgen.generative.functions import kernels
from rlgen.generative.functions.gaussian_process import GaussianProcess
from rlgen.generative.functions.regression import FunctionRegression
from rlgen.generative.functions.vfunc import VFunc
from rlgen.generative.latent.vae import VAE
from rlgen.generative.latent.vqvae import VQVAE
from rlgen.generative.mixture_density import MixtureDensityNetwork
from rlgen.generative.mixtures import CategoricalMixture, GaussianMixture
from rlgen.generative.model import (
    Bound,
    Decoder,
    Density,
    DensityModel,
    Diagnosed,
    Encoder,
    Energy,
    GenerativeModel,
    Objective,
    Score,
)
from rlgen.generative.support import unchecked
from rlgen.generative.training import ExactTrainer, NonFiniteLoss, Trainer, evaluate
