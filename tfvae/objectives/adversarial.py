"""Objectives with a critic: a network that learns to tell draws of q(z) from those of another distribution.

At its optimum the critic's logit is the logarithm of the ratio of their densities, so it estimates divergences of q(z),
the mean of q(z|x) over the data, which has no density in closed form. It is trained beside the model, in the same steps
and by an optimizer of its own, on the draws of the batch, or on each replica on its part of the batch.

Reference: Goodfellow et al. 2014, Generative Adversarial Nets, proposition 1; Sugiyama et al. 2012, Density-Ratio
Matching under the Bregman Divergence, for the ratio.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.elbo import ElboTerms
from tfvae.objectives.aggregate import draws
from tfvae.objectives.objective import PACKAGE, Objective

# The default critic, and the learning rate and the momenta of its optimizer.
_HIDDEN = (256, 256)
_ADAM = {"learning_rate": 1e-4, "beta_1": 0.5, "beta_2": 0.9}


class CriticObjective(Objective):
    """An objective with a critic of draws of q(z).

    Attributes:
        critic: a Keras model from z [B, L] to a logit [B, 1], which is high for draws of q(z).
        optimizer: what updates the critic's weights; not the optimizer of `compile`.
        metric_names: the model's further metrics: the estimated divergence, the critic's loss, which is log 2 = 0.69
            nats where it cannot tell the draws apart, and the share of draws that it tells right.
    """

    optimizer: Any

    needs_draws: ClassVar[bool] = True

    @abc.abstractmethod
    def others(self, terms: ElboTerms) -> tf.Tensor:
        """Draws of the distribution from which the critic tells draws of q(z).

        Args:
            terms: the terms of the bound.

        Returns:
            The draws [S, B, L].
        """

    def logits(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The logits [S, B] of the critic at z [S, B, L]."""
        rows = tf.reshape(z, [-1, z.shape[-1]])
        return tf.reshape(tf.cast(self.critic(rows, training=training), tf.float32), tf.shape(z)[:2])

    def of_critic(self, terms: ElboTerms, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of the critic, the cross-entropy of its answers, and the values of `metric_names`.

        Args:
            terms: the terms of the bound.
            training: whether the critic's layers, such as dropout, behave as in training.

        Returns:
            The loss [B], in nats, by which only the critic is to be trained; and the values by name, each [B].
        """
        # Without a gradient, which would be that of the encoder.
        both = draws(self, terms), self.others(terms)
        inside, outside = (self.logits(tf.stop_gradient(z), training) for z in both)
        loss = tf.reduce_mean(tf.nn.softplus(-inside) + tf.nn.softplus(outside), axis=0) / 2
        right = tf.cast(inside > 0, tf.float32) + tf.cast(outside < 0, tf.float32)
        values = (tf.reduce_mean(inside, axis=0), loss, tf.reduce_mean(right, axis=0) / 2)
        return loss, dict(zip(self.metric_names, values, strict=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        critic, optimizer = (_made(getattr(self, name)) for name in ("critic", "optimizer"))
        if critic is None:
            layers = [keras.layers.Dense(width, activation="leaky_relu") for width in _HIDDEN]
            critic = keras.Sequential([*layers, keras.layers.Dense(1)], name="critic")
        if not isinstance(critic, keras.layers.Layer):
            raise ValueError(f"`critic` must be a Keras model. Received: critic={checks.shown(critic)}")
        if optimizer is None:
            optimizer = keras.optimizers.Adam(**_ADAM)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"`optimizer` must be a Keras optimizer. Received: optimizer={checks.shown(optimizer)}")
        object.__setattr__(self, "critic", critic)
        object.__setattr__(self, "optimizer", optimizer)

    def __repr__(self) -> str:
        """The objective as in code, without the layers of the critic."""
        # One that scales the loss has the rate of another.
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        rate = optimizer.get_config()["learning_rate"]
        # To the digits of float32, in which Keras keeps it.
        rate = float(f"{rate:.7g}") if isinstance(rate, float) else rate
        shown = {field.name: repr(getattr(self, field.name)) for field in dataclasses.fields(self)}
        shown["critic"] = f"{type(self.critic).__name__}(...)"
        shown["optimizer"] = f"{type(optimizer).__name__}(learning_rate={checks.shown(rate)})"
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("critic", "optimizer"):
            config[name] = keras.saving.serialize_keras_object(config[name])
            # As it is before a model builds it.
            config[name].pop("build_config", None)
        return config


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True, repr=False)
class FactorVAE(CriticObjective):
    """The evidence lower bound, with a penalty on the total correlation of q(z): how dependent its dimensions are.

    mean over S of log p(x|z) - KL(q(z|x) || p(z)) - gamma * mean over S of log D(z) / (1 - D(z))

    D is the probability by which the critic takes z for a draw of q(z) rather than of the product of its marginals,
    whose draws are those of the batch with each dimension permuted by itself over the examples. So the last mean
    estimates KL(q(z) || product over l of q(z_l)), which is the metric `total_correlation`. Unlike in the paper, the
    permuted draws are those of the same batch, not of a second one, and the critic and the model take their steps at
    once. Each replica permutes its part of the batch. With sample weights, all distributions are of the weighted data.

    Args:
        critic: a Keras model from z [B, L] to a logit [B, 1], without an activation at its end, or its configuration;
            None means two dense layers of 256 units. The paper has six of 1000, also with leaky ReLU.
        gamma: weight of the total correlation, >= 0.
        optimizer: what updates the critic, or its configuration; not the optimizer of `compile`. None means Adam, as in
            the paper: `keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.9)`.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Kim & Mnih 2018, Disentangling by Factorising, equations 2 and 3 and algorithm 2.
    """

    critic: Any = None  # type: ignore[misc]
    gamma: float = 10.0
    optimizer: Any = None
    metric_names: ClassVar[tuple[str, ...]] = ("total_correlation", "critic_loss", "critic_accuracy")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gamma", checks.number("gamma", self.gamma, 0))

    def others(self, terms: ElboTerms) -> tf.Tensor:
        """Draws of the product of the marginals of q(z): see `CriticObjective`."""
        z = draws(self, terms)
        if terms.example_weights is not None:
            z = _resampled(z, terms.example_weights, terms.seed)
        z = tf.transpose(z, [0, 2, 1])
        order = tf.argsort(tf.random.stateless_uniform(tf.shape(z), terms.seed), axis=-1)
        return tf.transpose(tf.gather(z, order, batch_dims=2), [0, 2, 1])

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        total_correlation = tf.reduce_mean(self.logits(draws(self, terms)), axis=0)
        return terms.elbo - self.gamma * terms.weight * total_correlation


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True, repr=False)
class Adversarial(CriticObjective):
    """The log-likelihood, with a penalty by which a critic draws q(z) to the prior.

    mean over S of log p(x|z) - weight * penalty(z),  penalty(z) = log (1 - D(z)) / D(z) or -log D(z)

    D is here, as in the papers, the probability by which the critic takes z for a draw of p(z) rather than of q(z). The
    first penalty, "log_ratio", is on average an estimate of KL(q(z) || p(z)), which is the metric `aggregate_kl`; for
    weight 1 the objective is then the evidence lower bound plus the information that z has about x. The second,
    "non_saturating", is that of the papers, whose gradient fades where D takes draws of q(z) for draws of p(z):

    - the adversarial autoencoder is a `DiagonalNormal` posterior, "non_saturating" and weight 1, although its paper
      takes steps for the two terms in turn, not together;
    - the WAE-GAN is a posterior without noise, "non_saturating", and the paper's lambda as the weight, for the cost
      -log p(x|z): `Normal(0.5**0.5)` has the squared distance, up to a constant.

    The KL divergence has no part in it, so that it is not a bound on log p(x); the component weights of a mixture prior
    get no gradient.

    Args:
        critic: a Keras model from z [B, L] to a logit [B, 1], which is high for draws of q(z), without an activation at
            its end, or its configuration; None means two dense layers of 256 units.
        weight: weight of the penalty, >= 0.
        optimizer: what updates the critic, or its configuration; not the optimizer of `compile`. None means
            `keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.9)`.
        penalty: "log_ratio" or "non_saturating".
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Makhzani et al. 2015, Adversarial Autoencoders, section 2; Tolstikhin et al. 2018, Wasserstein
    Auto-Encoders, equation 4 and algorithm 1.
    """

    critic: Any = None  # type: ignore[misc]
    weight: float = 1.0
    optimizer: Any = None
    penalty: Literal["log_ratio", "non_saturating"] = "log_ratio"
    metric_names: ClassVar[tuple[str, ...]] = ("aggregate_kl", "critic_loss", "critic_accuracy")
    needs_density: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weight", checks.number("weight", self.weight, 0))
        if self.penalty not in ("log_ratio", "non_saturating"):
            raise ValueError(
                f'`penalty` must be "log_ratio" or "non_saturating". Received: penalty={checks.shown(self.penalty)}'
            )

    def others(self, terms: ElboTerms) -> tf.Tensor:
        """Draws of the prior: see `CriticObjective`."""
        shape = tf.shape(draws(self, terms))
        prior: Any = terms.prior
        return prior.sample(shape[:1] if prior.batch_shape.rank else shape[:2], seed=terms.seed)

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        log_ratio = self.logits(draws(self, terms))
        penalty = log_ratio if self.penalty == "log_ratio" else tf.nn.softplus(log_ratio)
        return tf.reduce_mean(terms.reconstruction_log_likelihood - self.weight * terms.weight * penalty, axis=0)


def _made(given: Any) -> Any:
    """A critic or an optimizer that was given as it is, or as its configuration."""
    return keras.saving.deserialize_keras_object(given) if isinstance(given, dict) else given


def _resampled(z: tf.Tensor, weights: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rows of z [S, B, L], each as often as its weight says on average; with equal weights, each once, in order."""
    rows = tf.shape(z)[1]
    upper = tf.cumsum(weights)
    upper *= tf.cast(rows, tf.float32) / upper[-1]
    start = tf.random.stateless_uniform([], tf.random.experimental.stateless_fold_in(seed, 1))
    chosen = tf.searchsorted(upper, tf.cast(tf.range(rows), tf.float32) + start, side="right")
    return tf.gather(z, tf.minimum(chosen, rows - 1), axis=1)
