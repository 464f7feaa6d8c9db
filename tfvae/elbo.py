"""The evidence lower bound: the one place where z is drawn and the three log-densities are evaluated.

For any q(z|x), Jensen's inequality gives

    log p(x) >= ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)).

Everything that tfvae maximises is computed from the terms that are estimated here. Letters in shapes: S samples,
B batch, L latent dimension.

Reference: Kingma & Welling 2013, Auto-Encoding Variational Bayes, equations 2, 3 and 7.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import renamed

tfd = tfp.distributions


class Path:
    """The path by which alone the gradient reaches the parameters of q: through z = g(epsilon; parameters).

    Attributes:
        weights: the factors [S, B] of the gradient at z, or None for 1. They depend on the terms at z, and are used
            only when the gradient is taken: in between, a training step sets them to `Objective.path_weights`. If all
            examples share their z [S, 1, L], they must have the same factors.
    """

    def __init__(self) -> None:
        self.weights: tf.Tensor | None = None

    def follow(self, z: tf.Tensor) -> tf.Tensor:
        """Returns z [S, B, L] unchanged; the gradient at z will be multiplied by the weights."""

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            if self.weights is None:
                return upstream
            weights = self.weights[:, :1] if upstream.shape[1] == 1 else self.weights
            return upstream * weights[..., tf.newaxis]

        return tf.custom_gradient(lambda z: (tf.identity(z), gradient))(z)


class Sampling(NamedTuple):
    """How the terms of the bound are estimated.

    Attributes:
        num_samples: S, the number of draws of z for each example.
        seed: int32 [2], a stateless seed: the same seed gives the same draws.
        analytic_kl: use the closed form of the KL divergence where TFP has one; the Monte Carlo form otherwise.
        path: restricts the gradient to the path through z: see `draw`; None for the whole gradient.
        training: whether layers such as dropout behave as in training.
        target: what the likelihood is of [B, ...] if that is not x, as for a model that removes noise from x.
    """

    num_samples: int
    seed: tf.Tensor
    analytic_kl: bool = True
    path: Path | None = None
    training: bool = False
    target: tf.Tensor | None = None


class ElboTerms(NamedTuple):
    """The terms of the bound, in nats, each evaluated at z ~ q(z|x).

    Attributes:
        reconstruction_log_likelihood: log p(x|z) [S, B].
        log_prior: log p(z) [S, B].
        log_posterior: log q(z|x) [S, B]; None if q(z|x) is a point, which has no density.
        kl: KL(q(z|x) || p(z)) [B], in closed form or as the mean of log q(z|x) - log p(z) over the samples; None if
            q(z|x) is a point.
        weight: the factor by which log p(z), log q(z|x) and the KL divergence were multiplied: see `tempered`.
        z: the draws [S, B, L], or None if the model has no draws of this form.
        posterior: q(z|x), with batch shape [B] and event shape [L]; None if z is None.
        prior: p(z); None if z is None.
        seed: a stateless seed int32 [2] for draws that the objective makes itself; None if z is None.
        auxiliary: a term [B] that is added to the objective but is not part of the bound, such as a classifier's.
        metrics: values [B, ...] of the model's own metrics, by name, or None.
        example_weights: the weights [B] of the examples in the batch, with the mean 1; None if all are 1.
        kl_by_layer: the divergences [B, T] of the layers of z, whose sum is `kl`; None if z has none.
    """

    reconstruction_log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor
    kl: tf.Tensor
    weight: tf.Tensor | float = 1.0
    z: tf.Tensor | None = None
    posterior: tfd.Distribution | None = None
    prior: tfd.Distribution | None = None
    seed: tf.Tensor | None = None
    auxiliary: tf.Tensor | float = 0.0
    metrics: dict[str, tf.Tensor] | None = None
    example_weights: tf.Tensor | None = None
    kl_by_layer: tf.Tensor | None = None

    @property
    def log_likelihood(self) -> tf.Tensor:
        """The earlier name of `reconstruction_log_likelihood`, until the next release."""
        renamed.warn(f"ElboTerms.{renamed.OLD}")
        return self.reconstruction_log_likelihood

    @property
    def log_weights(self) -> tf.Tensor:
        """Log importance weights log p(x|z) + log p(z) - log q(z|x) [S, B], in nats."""
        self._check_density("importance weights")
        return self.reconstruction_log_likelihood + self.log_prior - self.log_posterior

    @property
    def elbo(self) -> tf.Tensor:
        """The evidence lower bound [B], in nats per example: mean over S of log p(x|z), minus the KL divergence."""
        self._check_density("evidence lower bound")
        return tf.reduce_mean(self.reconstruction_log_likelihood, axis=0) - self.kl

    def _check_density(self, what: str) -> None:
        if self.kl is None:
            raise ValueError(
                f"`posterior` must have a density for the {what}. Received: q(z|x) that is a point, as of Deterministic"
            )

    def independent(self, argument: Literal["posterior", "prior"]) -> tfd.Distribution:
        """The distribution of each dimension of z, with batch shape [B, L] or, for a prior, perhaps [L].

        Args:
            argument: "posterior" for q(z|x), "prior" for p(z).

        Raises:
            ValueError: the dimensions are not independent.
        """
        distribution = getattr(self, argument)
        if distribution is None:
            raise ValueError(
                "`objective` must be one that does not need the divergence of each dimension of z, such as ELBO, IWAE "
                "or FreeBits(per_dimension=False), for this model. Received: terms without draws z"
            )
        if not isinstance(distribution, tfd.Independent) or distribution.distribution.event_shape.rank != 0:
            raise ValueError(
                f"`{argument}` must be independent over the dimensions of z for this objective. Received: "
                f"{distribution}"
            )
        return distribution.distribution

    def kl_by_dimension(self) -> tf.Tensor:
        """KL(q(z_l|x) || p(z_l)) [B, L] in nats, in closed form where TFP has one; multiplied by `weight`, as `kl` is.

        Raises:
            ValueError: the dimensions of z are not independent under q(z|x) or p(z).
        """
        q, p = self.independent("posterior"), self.independent("prior")
        kl = closed_form_kl(q, p)
        if kl is None:
            kl = tf.reduce_mean(q.log_prob(self.z) - p.log_prob(self.z), axis=0)
        return self.weight * kl

    def weighted(self, sample_weight: tf.Tensor | None) -> "ElboTerms":
        """The terms for examples of these weights [B], of any scale.

        None means equal weights, and so do weights of which none is above 0. The terms of each example stay as they
        are: the weights are for objectives of the batch as a whole.
        """
        if sample_weight is None:
            return self
        # No distribution of examples has negative weights.
        weights = tf.nn.relu(sample_weight)
        total, size = tf.reduce_sum(weights), tf.cast(tf.size(weights), tf.float32)
        weights = tf.where(total > 0, tf.math.divide_no_nan(weights * size, total), 1.0)
        return self._replace(example_weights=weights)

    def tempered(self, weight: tf.Tensor) -> "ElboTerms":
        """The terms with log p(z), log q(z|x) and the KL divergence multiplied by a weight, a scalar."""
        values = {name: getattr(self, name) for name in ("log_prior", "log_posterior", "kl", "kl_by_layer", "weight")}
        return self._replace(**{name: weight * value for name, value in values.items() if value is not None})


class Reparameterized(NamedTuple):
    """Draws of z, as differentiable functions of the parameters of q.

    Attributes:
        z: the latent variables [S, B, L].
        log_posterior: log q(z|x) [S, B], in nats; None if q(z|x) is a point.
    """

    z: tf.Tensor
    log_posterior: tf.Tensor


def has_density(posterior: tfd.Distribution) -> bool:
    """Whether q(z|x) has a density, which a point, a `tfd.VectorDeterministic`, has not."""
    return not isinstance(posterior, tfd.VectorDeterministic)


def draw(
    posterior: tfd.Distribution, num_samples: int, *, seed: tf.Tensor, path: Path | None = None
) -> Reparameterized:
    """Draws z ~ q(z|x), reparameterised.

    With a path the gradient of log q(z|x) with respect to the parameters of q at a fixed z, whose mean is zero, is left
    out. The gradient that remains is zero for every draw where q(z|x) = p(z|x), and so has no noise there.

    Args:
        posterior: q(z|x), with batch shape [B] and event shape [L].
        num_samples: S, the number of draws for each example.
        seed: int32 [2], a stateless seed: the same seed gives the same draws.
        path: the path that the gradient takes, through z alone; None for the whole gradient.

    Returns:
        The draws and their log-densities, in nats.

    Reference: Roeder et al. 2017, Sticking the Landing, equation 6.
    """
    if not has_density(posterior):
        return Reparameterized(posterior.sample(num_samples, seed=seed), None)
    z, log_posterior = posterior.experimental_sample_and_log_prob(num_samples, seed=seed)
    if path is None:
        return Reparameterized(z, log_posterior)
    z = path.follow(z)
    fixed = tf.stop_gradient(z)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(fixed)
        log_prob = posterior.log_prob(fixed)
    score = tf.stop_gradient(tape.gradient(log_prob, fixed))
    log_posterior = tf.stop_gradient(log_posterior) + tf.reduce_sum(score * (z - fixed), axis=-1)
    return Reparameterized(z, log_posterior)


def estimate(
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    log_likelihood: Callable[[tf.Tensor], tf.Tensor],
    sampling: Sampling,
) -> ElboTerms:
    """Draws z ~ q(z|x), reparameterised, and evaluates the terms of the bound.

    Args:
        posterior: q(z|x), with batch shape [B] and event shape [L].
        prior: p(z), with event shape [L] and a batch shape that broadcasts against [B].
        log_likelihood: maps z [S, B, L] to log p(x|z) [S, B].
        sampling: how z is drawn, and how the KL divergence is computed.

    Returns:
        The terms, in nats per example.
    """
    z, log_posterior = draw(posterior, sampling.num_samples, seed=sampling.seed, path=sampling.path)
    terms = terms_at(z, log_posterior, posterior, prior, log_likelihood, analytic_kl=sampling.analytic_kl)
    return terms._replace(seed=tf.random.experimental.stateless_fold_in(sampling.seed, 1))


def terms_at(
    z: tf.Tensor,
    log_posterior: tf.Tensor | None,
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    log_likelihood: Callable[[tf.Tensor], tf.Tensor],
    *,
    analytic_kl: bool = True,
) -> ElboTerms:
    """Evaluates the terms of the bound at given z.

    Args:
        z: the latent variables [S, B, L].
        log_posterior: log q(z|x) [S, B]; None if q(z|x) is a point.
        posterior: see `estimate`.
        prior: see `estimate`.
        log_likelihood: see `estimate`.
        analytic_kl: see `Sampling`.

    Returns:
        The terms, in nats per example.
    """
    log_prior = prior.log_prob(z)
    if log_posterior is None:
        return ElboTerms(log_likelihood(z), log_prior, None, None, z=z, posterior=posterior, prior=prior)
    kl = closed_form_kl(posterior, prior) if analytic_kl else None
    if kl is None:
        kl = tf.reduce_mean(log_posterior - log_prior, axis=0)
    return ElboTerms(log_likelihood(z), log_prior, log_posterior, kl, z=z, posterior=posterior, prior=prior)


def closed_form_kl(posterior: tfd.Distribution, prior: tfd.Distribution) -> tf.Tensor | None:
    """KL(posterior || prior) [B] in nats, or None where TFP has no closed form.

    Args:
        posterior: a distribution with batch shape [B].
        prior: a distribution whose batch shape broadcasts against [B].
    """
    try:
        return posterior.kl_divergence(prior)
    except NotImplementedError:
        return None
