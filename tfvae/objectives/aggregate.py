"""Objectives that shape the aggregate posterior q(z), the mean of q(z|x) over the data.

They estimate q(z) from the batch, or on each replica from its part of the batch, which should have a hundred examples
or more. With sample weights q(z) is that of the weighted data, whatever the scale of the weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.elbo import ElboTerms
from tfvae.objectives.objective import PACKAGE, Objective


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class BetaTCVAE(Objective):
    """The evidence lower bound, with a weight on the total correlation of q(z): how dependent its dimensions are.

    mean over S of log p(x|z) - KL(q(z|x) || p(z)) - (beta - 1) * KL(q(z) || product over l of q(z_l))

    The density q(z) at a draw is estimated, without bias, from the posterior of the draw's own example, with the weight
    1 / N, and from those of the other examples in the batch; the densities q(z_l) likewise. With sample weights v,
    whose mean in the batch is taken for that of all data, the shares are v_i / N and those of the others in proportion
    to their weights; examples of weight 0 count neither there nor in N.

    Args:
        num_examples: N, the number of training examples.
        beta: weight of the total correlation, >= 0; 1 gives the evidence lower bound.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range; or, when a model is made, q(z|x) is not independent over
            dimensions.

    Reference: Chen et al. 2018, Isolating Sources of Disentanglement in Variational Autoencoders, equation 4; for the
    estimator appendix C.
    """

    num_examples: int
    beta: float = 6.0

    needs_draws: ClassVar[bool] = True
    needs_independent: ClassVar[tuple[str, ...]] = ("posterior",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "num_examples", checks.positive_integer("num_examples", self.num_examples, maximum=2**63 - 1)
        )
        object.__setattr__(self, "beta", checks.number("beta", self.beta, 0))

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        z, q = draws(self, terms), terms.independent("posterior")
        # log q(z_l|x') [S, B, B', L] of each draw under the posterior of each example x'.
        log_prob = q.log_prob(z[:, :, tf.newaxis])
        size = tf.shape(z)[1]
        log_share = tf.math.log(self._shares(size, terms.example_weights))
        log_q = tf.reduce_logsumexp(tf.reduce_sum(log_prob, axis=-1) + log_share, axis=-1)
        log_product = tf.reduce_sum(tf.reduce_logsumexp(log_prob + log_share[..., tf.newaxis], axis=-2), axis=-1)
        total_correlation = tf.reduce_mean(log_q - log_product, axis=0)
        return terms.elbo - (self.beta - 1) * terms.weight * total_correlation

    def _shares(self, size: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        """The shares of the posteriors of the examples B' in q(z) at a draw of each example, [B, B']."""
        own, rest, is_own = 1 / self.num_examples, 1 - 1 / self.num_examples, tf.eye(size, dtype=bool)
        if weights is None:
            return tf.where(is_own, own, rest / tf.maximum(tf.cast(size, tf.float32) - 1, 1))
        # With the mean 1 over those that have a weight.
        weights *= tf.reduce_mean(tf.cast(weights > 0, tf.float32))
        of_others = tf.reduce_sum(tf.where(is_own, 0.0, weights), axis=1)
        # Written so that it is exactly the above for equal weights.
        rest = tf.maximum(rest + (1 - weights) * own, 0.0)
        others = tf.math.divide_no_nan(rest, of_others)[:, tf.newaxis] * weights
        return tf.where(is_own, tf.minimum(weights * own, 1.0), others)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class DIPVAE(Objective):
    """The evidence lower bound, with a penalty on the distance of the covariance of q(z) from the identity.

    mean over S of log p(x|z) - KL(q(z|x) || p(z)) - off_diagonal * sum over i != j of C_ij^2
        - diagonal * sum over i of (C_ii - 1)^2

    C is the covariance over the batch of the means of q(z|x), or of the draws of z: see `covariance`. With sample
    weights it is the weighted one, in which an example of weight 2 is as if it were there twice.

    Args:
        off_diagonal: weight of the covariances, >= 0.
        diagonal: weight of the variances, >= 0.
        covariance: "means" for DIP-VAE-I; "draws" for DIP-VAE-II, which works with any posterior.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range; or, when the objective is evaluated, "means" is asked for but the
            mean of q(z|x) has no closed form.

    Reference: Kumar et al. 2018, Variational Inference of Disentangled Latent Concepts from Unlabeled Observations,
    equations 6 and 7.
    """

    off_diagonal: float = 10.0
    diagonal: float = 10.0
    covariance: Literal["means", "draws"] = "draws"

    needs_draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("off_diagonal", "diagonal"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name), 0))
        if self.covariance not in ("means", "draws"):
            raise ValueError(
                f'`covariance` must be "means" or "draws". Received: covariance={checks.shown(self.covariance)}'
            )

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        z = draws(self, terms)
        posterior: Any = terms.posterior
        if self.covariance == "means":
            try:
                z = posterior.mean()[tf.newaxis]
            except NotImplementedError as error:
                raise ValueError(
                    '`covariance` must be "draws" for a posterior whose mean has no closed form. Received: '
                    f"covariance='means' with {terms.posterior}"
                ) from error
        weights = 1.0 if terms.example_weights is None else terms.example_weights[:, tf.newaxis]
        centered = z - tf.reduce_mean(weights * z, axis=1, keepdims=True)
        size = tf.cast(tf.shape(z)[1], tf.float32)
        covariance = tf.reduce_mean(tf.matmul(weights * centered, centered, transpose_a=True), axis=0) / size
        variances = tf.linalg.diag_part(covariance)
        penalty = self.off_diagonal * (tf.reduce_sum(covariance**2) - tf.reduce_sum(variances**2))
        penalty += self.diagonal * tf.reduce_sum((variances - 1) ** 2)
        return terms.elbo - terms.weight * penalty


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class MMD(Objective):
    """The log-likelihood, with a penalty on the maximum mean discrepancy of q(z) from the prior: InfoVAE, WAE-MMD.

    mean over S of log p(x|z) - kl_weight * KL(q(z|x) || p(z)) - mmd_weight * MMD^2(q(z), p(z))
    MMD^2(q, p) = E[k(z, z')] - 2 E[k(z, y)] + E[k(y, y')],  z, z' ~ q,  y, y' ~ p

    k(z, y) = exp(-|z - y|^2 / (2 L)), or C / (C + |z - y|^2) with C = 2 L, the mean of |y - y'|^2 under N(0, I).

    The InfoVAE has the first kernel, kl_weight = 1 - alpha and mmd_weight = alpha + lambda - 1. The WAE-MMD has the
    second, kl_weight = 0 and any posterior, `posteriors.Deterministic` too; its lambda for the cost |x - f(z)|^2 is
    mmd_weight * 2 scale^2 under `likelihoods.Normal(scale)`. With kl_weight = 0 it is not a bound on log p(x), and the
    component weights of a mixture prior get no gradient. With sample weights v the means are weighted, that of k(z, z')
    by v_i v_j over the pairs i != j: an example of weight 2 is as if it were there twice, without the pair of the two.

    Args:
        mmd_weight: weight of the discrepancy, >= 0.
        kl_weight: weight of the KL divergence, >= 0; 0 for a posterior without a density.
        kernel: "gaussian" or "inverse_multiquadratic", whose tail is heavier, so that z far from p(z) are drawn to it.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Zhao et al. 2019, InfoVAE: Balancing Learning and Inference in Variational Autoencoders, equations 6 and
    8; Tolstikhin et al. 2018, Wasserstein Auto-Encoders, algorithm 2 and section 4; Gretton et al. 2012, A Kernel
    Two-Sample Test, equation 3, for the unbiased estimator.
    """

    mmd_weight: float = 100.0
    kl_weight: float = 0.0
    kernel: Literal["gaussian", "inverse_multiquadratic"] = "gaussian"

    needs_draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mmd_weight", "kl_weight"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name), 0))
        if self.kernel not in _KERNELS:
            raise ValueError(
                f'`kernel` must be "gaussian" or "inverse_multiquadratic". Received: kernel={checks.shown(self.kernel)}'
            )

    @property
    def needs_density(self) -> bool:
        """Whether the KL divergence has a weight."""
        return self.kl_weight > 0

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        z = draws(self, terms)
        prior: Any = terms.prior
        count = tf.shape(z)[1]
        is_conditional = bool(prior.batch_shape.rank)
        y = prior.sample([] if is_conditional else [count], seed=terms.seed)[tf.newaxis]
        kernel, weights = _KERNELS[self.kernel], terms.example_weights
        if weights is None:
            weights = tf.ones([count])
        # Draws of a prior that is one for all examples belong to none of them.
        of_prior = weights if is_conditional else tf.ones_like(weights)
        discrepancy = _mean_of_pairs(kernel, z, weights) + _mean_of_pairs(kernel, y, of_prior)
        discrepancy -= 2 * tf.reduce_mean(weights[:, tf.newaxis] * of_prior * kernel(z, y))
        # A batch of one example has no pairs, and rounding leaves none where one has nearly all the weight.
        discrepancy = tf.where(_others(weights) > _FEWEST_OTHERS, discrepancy, 0.0)
        value = tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0)
        value -= self.mmd_weight * terms.weight * discrepancy
        return value - self.kl_weight * terms.kl if self.needs_density else value


def draws(objective: Objective, terms: ElboTerms) -> tf.Tensor:
    """The draws z [S, B, L], for an objective that needs them."""
    if terms.z is None:
        raise ValueError(
            "`objective` must be one that does not need the draws of z, such as ELBO or IWAE, for this model. "
            f"Received: {objective}"
        )
    return terms.z


def _distances(z: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The squared distances |z - y|^2 [S, B, B'] of z [S, B, L] and y [S, B', L]."""
    squares = [tf.reduce_sum(each**2, axis=-1) for each in (z, y)]
    distance = squares[0][:, :, tf.newaxis] + squares[1][:, tf.newaxis] - 2 * tf.matmul(z, y, transpose_b=True)
    return tf.nn.relu(distance)


def _gaussian(z: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.exp(-_distances(z, y) / (2 * z.shape[-1]))


def _inverse_multiquadratic(z: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return 1 / (1 + _distances(z, y) / (2 * z.shape[-1]))


# The kernels k(z, y) [S, B, B'] of z [S, B, L] and y [S, B', L]; both are 1 where z = y.
_KERNELS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "gaussian": _gaussian,
    "inverse_multiquadratic": _inverse_multiquadratic,
}


# By so many examples of mean weight, besides one of each pair, a mean over pairs is more than rounding.
_FEWEST_OTHERS = 1e-3


def _others(weights: tf.Tensor) -> tf.Tensor:
    """The sum of weights [B], without the one that is drawn in proportion to them: B - 1 if all are 1."""
    total = tf.reduce_sum(weights)
    return total - tf.reduce_sum(weights**2) / total


def _mean_of_pairs(kernel: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], z: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The weighted mean of k(z, z') over the pairs of different rows of z [S, B, L], without the diagonal, which is 1.

    Args:
        kernel: k.
        z: the rows.
        weights: those of the rows [B]; a pair has the product of two.
    """
    total = tf.reduce_mean(tf.reduce_sum(weights[:, tf.newaxis] * weights * kernel(z, z), axis=[1, 2]))
    others = tf.maximum(_others(weights), _FEWEST_OTHERS)
    return (total - tf.reduce_sum(weights**2)) / (tf.reduce_sum(weights) * others)
