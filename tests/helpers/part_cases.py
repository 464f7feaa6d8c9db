"""Every posterior, prior, likelihood and objective, with arguments that are not its defaults."""

import json

import keras
import numpy as np

from tfvae import likelihoods, objectives, posteriors, priors

SLOTS = {
    "posterior": (posteriors, posteriors.Posterior),
    "prior": (priors, priors.Prior),
    "likelihood": (likelihoods, likelihoods.Likelihood),
    "objective": (objectives, objectives.Objective),
}


def configuration(likelihood):
    """The configuration of a likelihood, which, unlike the likelihood itself, several models can be given."""
    configuration = keras.saving.serialize_keras_object(likelihood)
    configuration.pop("build_config", None)
    return configuration


def features():
    """The configuration of a network that makes features of x, as it is in a file: with lists, and no tuples."""
    network = keras.Sequential([keras.Input((3, 2)), keras.layers.Flatten(), keras.layers.Dense(3, name="features")])
    network.trainable = False
    return json.loads(json.dumps(keras.saving.serialize_keras_object(network)))


def critic_and_optimizer():
    """The configurations of a critic and of its optimizer, from which every objective makes its own."""
    critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    optimizer = keras.saving.serialize_keras_object(keras.optimizers.Adam(0.01))
    return {"critic": configuration(critic), "optimizer": optimizer}


# Each part with arguments that are not the defaults; the other slots of every model made here have the defaults.
CASES = [
    (posteriors.DiagonalNormal, {"latent_dim": 2}),
    (posteriors.FullCovarianceNormal, {"latent_dim": 2}),
    (posteriors.LowRankNormal, {"latent_dim": 2, "rank": 1}),
    (posteriors.CouplingFlow, {"latent_dim": 2, "num_couplings": 2, "hidden": 4}),
    (posteriors.InverseAutoregressiveFlow, {"latent_dim": 2, "num_flows": 2, "hidden": 4}),
    (posteriors.SplineFlow, {"latent_dim": 2, "num_couplings": 2, "bins": 3, "hidden": 4}),
    (posteriors.SylvesterFlow, {"latent_dim": 2, "num_flows": 2}),
    (posteriors.Laplace, {"latent_dim": 2}),
    (posteriors.Deterministic, {"latent_dim": 2}),
    (posteriors.PowerSpherical, {"latent_dim": 2}),
    (posteriors.VonMisesFisher, {"latent_dim": 2}),
    (posteriors.RelaxedOneHotCategorical, {"latent_dim": 2, "num_categories": 2, "temperature": 0.7}),
    (priors.StandardNormal, {"latent_dim": 2}),
    (priors.NormalMixture, {"latent_dim": 2, "num_components": 3}),
    (priors.VampPrior, {"latent_dim": 2, "num_components": 3, "bounds": [0.0, 1.0]}),
    (priors.Normal, {"latent_dim": 2}),
    (priors.Flow, {"latent_dim": 2, "num_couplings": 2, "hidden": 4}),
    (priors.SplineFlow, {"latent_dim": 2, "num_couplings": 1, "bins": 3, "hidden": 4}),
    (priors.SecondStage, {"latent_dim": 2, "second_dim": 3, "hidden": 4}),
    (priors.HypersphericalUniform, {"latent_dim": 2}),
    (priors.RelaxedOneHotCategorical, {"latent_dim": 2, "num_categories": 2, "temperature": 0.7}),
    (
        priors.RelaxedOneHotCategorical,
        {"latent_dim": 2, "num_categories": 2, "temperature": 0.7, "probabilities": "learned"},
    ),
    (likelihoods.Normal, {"scale": 0.5}),
    (likelihoods.Normal, {"scale": "learned"}),
    (likelihoods.Bernoulli, {}),
    (likelihoods.ContinuousBernoulli, {}),
    (likelihoods.Normal, {"scale": "per_dimension"}),
    (likelihoods.Normal, {"scale": "predicted"}),
    (likelihoods.Normal, {"scale": "optimal"}),
    (likelihoods.Laplace, {"scale": "learned"}),
    (likelihoods.StudentT, {"df": "learned", "scale": "predicted"}),
    (likelihoods.StudentT, {"df": 4.0, "scale": "per_dimension"}),
    (likelihoods.Categorical, {"num_classes": 3}),
    (likelihoods.DiscretizedLogistic, {}),
    (likelihoods.DiscretizedLogisticMixture, {"num_components": 2}),
    (likelihoods.Poisson, {}),
    (likelihoods.NegativeBinomial, {}),
    (likelihoods.ZeroInflatedNegativeBinomial, {}),
    (
        likelihoods.Columns,
        {
            "columns": [
                [configuration(likelihoods.Normal("learned")), 1],
                [configuration(likelihoods.Categorical(2)), 1],
            ]
        },
    ),
    (
        likelihoods.Perceptual,
        {"network": features(), "scale": 0.5, "likelihood": configuration(likelihoods.Normal("learned"))},
    ),
    (likelihoods.Missing, {"likelihood": configuration(likelihoods.Normal("optimal")), "fill": True}),
    (objectives.ELBO, {"beta": 4.0, "num_samples": 3, "analytic_kl": False}),
    (
        objectives.ELBO,
        {"beta": 0.5, "num_samples": 3, "analytic_kl": False, "sticking_the_landing": True},
    ),
    (objectives.IWAE, {"num_samples": 3}),
    (objectives.IWAE, {"num_samples": 3, "doubly_reparameterized": True}),
    (objectives.MIWAE, {"num_samples": 6, "groups": 3, "doubly_reparameterized": False}),
    (objectives.MIWAE, {"num_samples": 6, "groups": 3, "doubly_reparameterized": True}),
    (objectives.PIWAE, {"num_samples": 6, "groups": 3, "doubly_reparameterized": False}),
    (objectives.PIWAE, {"num_samples": 6, "groups": 3, "doubly_reparameterized": True}),
    (objectives.CIWAE, {"num_samples": 3, "share": 0.25}),
    (objectives.Renyi, {"num_samples": 3, "alpha": -1.5}),
    (objectives.FreeBits, {"num_samples": 3, "nats": 0.1, "per_dimension": False}),
    (objectives.FreeBits, {"num_samples": 3, "nats": 0.01, "per_dimension": True}),
    (objectives.Capacity, {"num_samples": 3, "capacity": 1.0, "gamma": 2.0}),
    (objectives.BetaTCVAE, {"num_samples": 3, "num_examples": 32, "beta": 2.0}),
    (objectives.DIPVAE, {"num_samples": 3, "off_diagonal": 1.0, "diagonal": 2.0, "covariance": "means"}),
    (objectives.DIPVAE, {"num_samples": 3, "off_diagonal": 1.0, "diagonal": 2.0, "covariance": "draws"}),
    (objectives.MMD, {"num_samples": 3, "mmd_weight": 5.0, "kl_weight": 0.5, "kernel": "gaussian"}),
    (objectives.MMD, {"num_samples": 3, "mmd_weight": 5.0, "kl_weight": 0.0, "kernel": "inverse_multiquadratic"}),
    (objectives.RAE, {"num_samples": 3, "beta": 0.5}),
    (objectives.FactorVAE, {"num_samples": 3, "gamma": 2.0, **critic_and_optimizer()}),
    (objectives.Adversarial, {"num_samples": 3, "weight": 2.0, "penalty": "log_ratio", **critic_and_optimizer()}),
    (objectives.Adversarial, {"num_samples": 3, "weight": 2.0, "penalty": "non_saturating", **critic_and_optimizer()}),
]

EVENT_SHAPE = (3, 2)
LATENT_DIM = 2
# Bits are valid under every likelihood.
X = (np.random.default_rng(0).uniform(size=(32, *EVENT_SHAPE)) < 0.5).astype("float32")


def case_id(case):
    part, arguments = case
    shown = (f"{name}={value}" for name, value in arguments.items() if not isinstance(value, dict | list))
    return f"{part.__name__}({', '.join(shown)})"


def slot_of(part):
    (slot,) = [slot for slot, (_, base) in SLOTS.items() if issubclass(part, base)]
    return slot
