"""What the latent dimensions are used for: their activity, their KL divergence, the rate and the distortion."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.elbo import Sampling
from tfvae.evaluation.batches import HIERARCHIES, check_model, prior_of, seeded
from tfvae.models.deep_hierarchy import DeepHierarchicalVAE
from tfvae.models.hierarchical import HierarchicalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE

tfd = tfp.distributions

# Draws of z, where a moment or a divergence has no closed form.
_NUM_SAMPLES = 64
# The variance of the posterior mean above which a unit is active.
ACTIVE = 0.01


class ActiveUnits(NamedTuple):
    """Which latent dimensions depend on x.

    Attributes:
        count: how many have a variance above the threshold.
        variances: Var_x(E_q(z|x)[z]) of each dimension [L].
    """

    # Of the same name as a method of a tuple.
    count: int  # type: ignore[assignment]
    variances: np.ndarray


class RateDistortion(NamedTuple):
    """The two terms of the bound, in nats per example, each a mean over the examples: ELBO = -(rate + distortion).

    Attributes:
        rate: KL(q(z|x) || p(z)), the cost of a code for z; at least the mutual information I_q(x; z).
        distortion: -E_q[log p(x|z)], the cost of a code for x given z; it may be negative where x is continuous.
    """

    rate: float
    distortion: float


def active_units(
    model: VAE, x: Any, threshold: float = ACTIVE, *, batch_size: int = 256, seed: int | None = None
) -> ActiveUnits:
    """Counts the latent dimensions whose posterior mean varies with x.

    A_l = Var_x(E_q(z|x)[z_l]);  unit l is active where A_l > threshold

    If q(z|x) has no mean in closed form, A_l is the covariance of two means of 32 draws each, which is unbiased.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, at least 2, or a dataset.
        threshold: A_l above which a unit is active, >= 0, on the scale of z: 0.01 is for a prior of unit variance.
        batch_size: how many examples are computed at a time.
        seed: the seed of the draws, if any are needed.

    Returns:
        The number of active units, and the variance of each.

    Raises:
        ValueError: an argument is invalid.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, section 5.2.
    """
    check_model(model)
    if not threshold >= 0:
        raise ValueError(f"`threshold` must be a number of at least 0. Received: threshold={checks.shown(threshold)}")
    means = np.concatenate([_means(model, *batch) for batch in seeded(model, x, batch_size, seed)], axis=1)
    if means.shape[1] < 2:
        raise ValueError("`x` must hold at least 2 examples. Received: 1 example")
    first, second = means.astype(float) - means.mean(axis=1, keepdims=True, dtype=float)
    variances = (first * second).sum(axis=0) / (len(first) - 1)
    return ActiveUnits(int(np.sum(variances > threshold)), variances)


def kl_per_dimension(
    model: VAE, x: Any, *, num_samples: int = _NUM_SAMPLES, batch_size: int = 256, seed: int | None = None
) -> np.ndarray:
    """Computes the KL divergence of each latent dimension; their sum is the rate.

    mean over x of KL(q(z_l|x) || p(z_l)), in closed form where TFP has one

    Args:
        model: the model; the dimensions of its posterior and of its prior must be independent.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        num_samples: draws of z for each example, where there is no closed form.
        batch_size: how many examples are computed at a time.
        seed: the seed of the draws, if any are needed.

    Returns:
        The divergences [L], in nats.

    Raises:
        ValueError: an argument is invalid.
    """
    check_model(model, but=SemiSupervisedVAE)
    model.check_defined("kl", "`kl_per_dimension`")
    num_samples = checks.positive_integer("num_samples", num_samples)
    batches = seeded(model, x, batch_size, seed)
    return np.concatenate([_kl(model, *batch, num_samples) for batch in batches]).mean(axis=0, dtype=float)


def rate_distortion(
    model: VAE | HierarchicalVAE | DeepHierarchicalVAE,
    x: Any,
    *,
    num_samples: int = _NUM_SAMPLES,
    batch_size: int = 128,
    seed: int | None = None,
) -> RateDistortion:
    """Estimates the rate and the distortion, into which two models may divide the same ELBO differently.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        num_samples: draws of z for each example.
        batch_size: how many examples are computed at a time.
        seed: the same seed gives the same draws; None draws anew at each call.

    Returns:
        The rate and the distortion, in nats per example.

    Raises:
        ValueError: an argument is invalid.

    Reference: Alemi et al. 2018, Fixing a Broken ELBO.
    """
    check_model(model, *HIERARCHIES)
    model.check_defined("elbo", "`rate_distortion`")
    num_samples = checks.positive_integer("num_samples", num_samples)
    rates, distortions = rates_and_distortions(model, x, num_samples, batch_size, seed)
    assert rates is not None
    return RateDistortion(float(rates.mean()), float(distortions.mean()))


def rates_and_distortions(
    model: VAE | HierarchicalVAE | DeepHierarchicalVAE | SequentialVAE,
    x: Any,
    num_samples: int,
    batch_size: int,
    seed: int | None,
) -> tuple[np.ndarray | None, np.ndarray]:
    """The rate and the distortion of each example, each [N], in nats; the bound is minus their sum.

    Without a density of q(z|x) the rate is None.

    Args:
        model: the model.
        x: see `rate_distortion`.
        num_samples: see `rate_distortion`.
        batch_size: see `rate_distortion`.
        seed: see `rate_distortion`.
    """
    rates, distortions = [], []
    for batch, batch_seed in seeded(model, x, batch_size, seed):
        terms = model.elbo_terms(batch, Sampling(num_samples=num_samples, seed=batch_seed))
        if terms.kl is not None:
            rates.append(terms.kl)
        distortions.append(-tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0))
    return np.concatenate(rates).astype(float) if rates else None, np.concatenate(distortions).astype(float)


def _means(model: VAE, x: Any, seed: tf.Tensor) -> np.ndarray:
    """Two independent estimates of E_q[z] [2, B, L], or its closed form twice."""
    posterior = model._posterior_of(x)
    try:
        return np.stack([posterior.mean()] * 2)
    except NotImplementedError:
        halves = np.split(posterior.sample(_NUM_SAMPLES, seed=seed).numpy(), 2)
        return np.stack([half.mean(axis=0) for half in halves])


def _kl(model: VAE, x: Any, seed: tf.Tensor, num_samples: int) -> np.ndarray:
    """The divergence of each dimension for each example [B, L]."""
    joints = {"posterior": model._posterior_of(x), "prior": prior_of(model, x)}
    for name, joint in joints.items():
        if not (isinstance(joint, tfd.Independent) and joint.distribution.event_shape.rank == 0):
            raise ValueError(
                f"`model` must have a {name} whose dimensions are independent, a tfp.distributions.Independent. "
                f"Received: {joint}"
            )
    posterior, prior = (joint.distribution for joint in joints.values())
    try:
        return tfd.kl_divergence(posterior, prior).numpy()
    except NotImplementedError:
        z = posterior.sample(num_samples, seed=seed)
        return tf.reduce_mean(posterior.log_prob(z) - prior.log_prob(z), axis=0).numpy()
