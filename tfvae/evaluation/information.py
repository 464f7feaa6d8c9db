"""The mutual information of x and z under the encoder, and how far the aggregate posterior is from the prior."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks
from tfvae.evaluation.batches import check_model
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.vae import VAE
from tfvae.posteriors.posterior import known_density

# The most elements of z, repeated for each example, computed at a time.
_CHUNK_ELEMENTS = 2**21


class Information(NamedTuple):
    """The two parts of the rate: mutual_information + aggregate_kl is the mean of KL(q(z|x) || p(z)).

    Attributes:
        mutual_information: I_q(x; z) in nats, for an x drawn from the N examples; never above log N.
        standard_error: the standard error of the mutual information, in nats, over the examples and the draws.
        aggregate_kl: KL(q(z) || p(z)) in nats, q(z) the mean of q(z|x) over the examples.
    """

    mutual_information: float
    standard_error: float
    aggregate_kl: float


def mutual_information(
    model: VAE,
    x: Any,
    *,
    num_samples: int = 1,
    max_examples: int = 5000,
    batch_size: int = 256,
    seed: int | None = None,
) -> Information:
    """Estimates the mutual information of x and z ~ q(z|x), and the divergence of the aggregate posterior from p(z).

    E_x KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z)),  q(z) = 1/N sum_n q(z|x_n)

    I_q(x; z) = E_x E_q(z|x)[log q(z|x) - log q(z)], with every example in q(z), so that num_samples * N^2 densities
    are evaluated. Warns if it is within a nat of its limit log N, where it may depend on N more than on the model.

    Args:
        model: the model.
        x: an array [N, ...] or a dataset.
        num_samples: draws of z for each example.
        max_examples: if there are more examples, this number of them is chosen at random.
        batch_size: how many examples are encoded at a time.
        seed: the same seed gives the same draws; None draws anew at each call.

    Returns:
        The two parts, in nats per example.

    Raises:
        ValueError: an argument is invalid.

    Reference: Hoffman & Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound.
    """
    check_model(model, but=ConditionalVAE)
    if not model.posterior.has_log_prob:
        raise ValueError(
            "`model` must have a posterior that can evaluate log q(z|x) at any z. Received: "
            f"{type(model.posterior).__name__}, {known_density(model.posterior)}"
        )
    num_samples = checks.positive_integer("num_samples", num_samples)
    max_examples = checks.positive_integer("max_examples", max_examples)
    seeds = tf.random.experimental.stateless_split(model._seed(seed), 2)
    parameters = model.encode(x, batch_size)
    size = len(next(iter(parameters.values())))
    if size > max_examples:
        chosen = np.random.default_rng(seeds[1].numpy().view(np.uint32)).choice(size, max_examples, replace=False)
        parameters, size = {name: values[chosen] for name, values in parameters.items()}, max_examples
    if size < 2:
        raise ValueError("`x` must hold at least 2 examples. Received: 1 example")
    posterior = model.posterior.distribution({name: tf.constant(values) for name, values in parameters.items()})
    z, log_posterior = posterior.experimental_sample_and_log_prob(num_samples, seed=seeds[0])
    log_prior = model.prior.distribution().log_prob(z).numpy()

    @tf.function(reduce_retracing=True, autograph=False)
    def log_mixture(z: tf.Tensor) -> tf.Tensor:
        """The density log q(z) [M] of z [M, L]."""
        repeated = tf.broadcast_to(z[:, tf.newaxis], [tf.shape(z)[0], size, z.shape[-1]])
        return tf.reduce_logsumexp(posterior.log_prob(repeated), axis=1) - math.log(size)

    flat = tf.reshape(z, [-1, model.latent_dim])
    rows = chunks.rows_within(_CHUNK_ELEMENTS, size * model.latent_dim)
    parts = [log_mixture(flat[part]) for part in chunks.slices(len(flat), rows)]
    log_aggregate = np.reshape(np.concatenate(parts), log_prior.shape)
    of_examples = (log_posterior.numpy() - log_aggregate).mean(axis=0, dtype=float)
    result = Information(
        float(of_examples.mean()),
        float(of_examples.std(ddof=1) / math.sqrt(size)),
        float((log_aggregate - log_prior).mean(dtype=float)),
    )
    if result.mutual_information > math.log(size) - 1.0:
        warnings.warn(
            f"The mutual information is {result.mutual_information:.2f} nats, near its limit log N = "
            f"{math.log(size):.2f} for N = {size} examples, and perhaps far larger in truth: take more examples.",
            stacklevel=2,
        )
    return result
