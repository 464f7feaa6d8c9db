"""The normal family of q for many latent variables, most of which depend only on a few others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions.conditional_chain import ConditionalChain
from tfvae.distributions.normal import Normal
from tfvae.inference.structure import Pattern
from tfvae.numerics import positive
from tfvae.posteriors import FullCovarianceNormal, Posterior

tfd = tfp.distributions


# The parameters of a `ConditionalChain`.
_NAMES = (
    *("loc", "skewness", "log_tailweight", "tril", "root", "shift", "slope", "log_precision", "log_precision_slope"),
    *("band", "band_slope", "start_band"),
)

# With more, q is a `StructuredNormal` by default.
_MANY_DIMENSIONS = 20
_LEARNING_RATE = 0.02
# With more, the learning rate falls as the root of their number, as the noise of all together would otherwise grow.
_FEW_DIMENSIONS = 50


@keras.saving.register_keras_serializable("tfvae")
class StructuredNormal(Posterior):
    """A family of q for many latent variables of groups or of time steps, most of which depend only on a few others.

    Given the few global latent variables, the local ones are normal with a banded precision. Their conditional means,
    the logarithms of their conditional scales and their regressions on each other are functions of the global
    variables, so that the family is near posteriors whose local scales depend on a global variable, as in a
    hierarchical model, centred or not. The global variables have a normal distribution with a full covariance, bent by
    a skewness and a tail weight for each.

    The local variables, and which of them depend on each other, are found at the first `fit`: see
    `tfvae.inference.structure`. Where nothing is found, the family is one normal distribution with a full covariance.

    Args:
        latent_dim: L, or None to take the model's.
        pattern: what `fit` found, from a file; None at first.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        pattern: the `Pattern`, or None before the first `fit`.

    Reference: Tan & Nott 2018, Gaussian Variational Approximation with Sparse Precision Matrices; Tan et al. 2020,
    Conditionally Structured Variational Gaussian Approximation with Importance Weights, section 3.
    """

    def __init__(self, latent_dim: int | None = None, pattern: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        # None until `fit` finds it.
        self.pattern: Pattern = None  # type: ignore[assignment]
        if pattern is not None:
            self.pattern = Pattern(pattern["blocks"], pattern["width"], pattern["dim"])

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the variables, for no features: [B, 0]."""
        if input_shape[-1] != 0 or self.pattern is None:
            raise ValueError(
                "`posterior` must not be a StructuredNormal except in tfvae.VariationalInference, whose `fit` finds "
                f"its structure. Received: {checks.shown(input_shape[-1])} features, pattern={self.pattern}"
            )
        size, local = self.pattern.num_globals, len(self.pattern.node)
        width = len(self.pattern.mask)
        self._add("loc", [size])
        self._add("skewness", [size])
        self._add("log_tailweight", [size])
        self._add("tril", [size * (size + 1) // 2])
        self._add("shift", [local])
        self._add("slope", [local, 2 * size])
        self._add("log_precision", [local])
        self._add("log_precision_slope", [local, 2 * size])
        self._add("band", [width, local])
        self._add("band_slope", [width, local, 2 * size])
        self._add("root", [size, size], trainable=False, initializer="identity")
        self._add("start_band", [width, local], trainable=False)

    def start_at(self, pattern: Pattern, values: Mapping[str, np.ndarray]) -> None:
        """Sets the pattern, and the variables to those of a Gaussian near the posterior.

        Args:
            pattern: the pattern, which is kept if there is one already.
            values: variables by name, in the coordinates of the `Approximation`; the others stay.
        """
        if self.pattern is None:
            self.pattern = pattern
        if not self.built:
            self.build((None, 0))
        for name, value in values.items():
            getattr(self, f"_{name}").assign(value)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """The parameters, which are the same for every row of features [B, 0]: see `ConditionalChain`."""
        mask = tf.constant(self.pattern.mask, tf.float32)
        values = {name: tf.convert_to_tensor(getattr(self, f"_{name}")) for name in _NAMES}
        if self.pattern.num_globals:
            raw = tfp.math.fill_triangular(values["tril"])
            identity = tf.eye(self.pattern.num_globals)
            diagonal = positive(tf.reduce_sum(raw * identity, axis=-1, keepdims=True))
            values["tril"] = raw * (1 - identity) + diagonal * identity
        else:  # TensorFlow would divide by the size 0.
            values["tril"] = tf.zeros([0, 0])
        values["band"] = mask * values["band"]
        values["band_slope"] = mask[..., tf.newaxis] * values["band_slope"]
        return {**values, "batch": tf.zeros(tf.shape(features)[:1])}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.TransformedDistribution:
        """q, with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` returns.
        """
        noise = tf.zeros([*parameters["batch"].shape, self.pattern.dim])
        return tfd.TransformedDistribution(tfd.Independent(Normal(noise, 1.0), 1), self._chain(parameters))

    def log_prob_of_globals(self, parameters: dict[str, tf.Tensor], z: tf.Tensor) -> tf.Tensor:
        """The log density [S] of the global variables of z [S, L] alone, in nats.

        Args:
            parameters: what `call` returns.
            z: the latent variables.
        """
        return self._chain(parameters).log_prob_of_globals(z)

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The z [B, L] of noise 0."""
        return self.sample_from(parameters, tf.zeros([*parameters["batch"].shape, self.pattern.dim]))

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] of noise epsilon [B, L], that of the global variables first."""
        return self._chain(parameters).forward(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        found = self.pattern
        pattern = None if found is None else {"blocks": found.blocks, "width": found.width, "dim": found.dim}
        return {**super().get_config(), "pattern": pattern}

    def _add(self, name: str, shape: Sequence[int], trainable: bool = True, initializer: str = "zeros") -> None:
        # A variable without elements has no gradient, of which Keras would warn.
        trainable = trainable and math.prod(shape) > 0
        weight = self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=trainable, dtype="float32", autocast=False
        )
        setattr(self, f"_{name}", weight)

    def _chain(self, parameters: dict[str, tf.Tensor]) -> ConditionalChain:
        return ConditionalChain({name: parameters[name] for name in _NAMES}, self.pattern.order)


def default_family(posterior: Posterior | None, dim: int, local: Any) -> type[Posterior]:
    """The family of q if none is given: `StructuredNormal` for many dimensions.

    Args:
        posterior: the family that is given.
        dim: L.
        local: the latent variables that each row has of its own, or None.

    Raises:
        ValueError: the family given is a `StructuredNormal`, but the structure will not be looked for.
    """
    if isinstance(posterior, StructuredNormal) and local is not None:
        raise ValueError(
            "`posterior` must be another family than StructuredNormal if rows have `local` latent variables, such as "
            "FullCovarianceNormal. Received: a StructuredNormal"
        )
    return StructuredNormal if dim > _MANY_DIMENSIONS and local is None else FullCovarianceNormal


def default_learning_rate(posterior: Posterior, dim: int) -> float:
    """The learning rate with which a family is fitted if the model is not compiled.

    Args:
        posterior: the family.
        dim: L.
    """
    is_lower = isinstance(posterior, StructuredNormal) and dim > _FEW_DIMENSIONS
    return _LEARNING_RATE * math.sqrt(_FEW_DIMENSIONS / dim) if is_lower else _LEARNING_RATE
