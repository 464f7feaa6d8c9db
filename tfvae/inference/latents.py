"""The latent variables of a Bayesian model: their names, shapes and constraints, and their place in one vector.

q approximates a density over one unconstrained vector z [L]. Each latent variable is a part of z, mapped by a bijector
to the variable's constraint: the density of z is that of the latent variables times the Jacobian of the bijectors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, private_apis
from tfvae.distributions.stick_breaking import StickBreaking
from tfvae.posteriors import Posterior

tfb = tfp.bijectors
tfd = tfp.distributions


class Latent(NamedTuple):
    """The shape and the constraint of a latent variable.

    Attributes:
        shape: its shape, () for a number.
        bijector: maps an unconstrained tensor to the variable, or None if it has no constraint: `tfb.Exp()` for
            positive numbers, `tfb.Sigmoid()` for (0, 1), `tfb.IteratedSigmoidCentered()` for a simplex,
            `tfb.Ascending()` for ordered numbers and `tfb.CorrelationCholesky()` for the Cholesky factor of a
            correlation matrix.
    """

    shape: Sequence[int] = ()
    bijector: tfb.Bijector | None = None


class LatentSpace:
    """The latent variables as parts of one unconstrained vector z [L].

    Args:
        shapes: a structure of the shapes of the latent variables.
        bijector: maps a structure of unconstrained tensors to the latent variables.
        names: the names of the latent variables, in the order of `tf.nest.flatten`.

    Attributes:
        names: the names.
        dim: L.
        unconstrained_shapes: the shapes of their parts of z.
    """

    def __init__(self, shapes: Any, bijector: tfb.Bijector, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._bijector = bijector
        # `tf.nest` would take a shape that is a plain tuple for a structure.
        self._structure = tf.nest.map_structure(tf.TensorShape, shapes)
        unconstrained = bijector.inverse_event_shape(self._structure)
        self._shapes = [tuple(shape.as_list()) for shape in tf.nest.flatten(self._structure)]
        self.unconstrained_shapes = [tuple(shape.as_list()) for shape in tf.nest.flatten(unconstrained)]
        self._unconstrained_structure = unconstrained
        self._sizes = [math.prod(shape) for shape in self.unconstrained_shapes]
        self.dim = sum(self._sizes)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each latent variable."""
        return dict(zip(self.names, self._shapes, strict=True))

    def constrain(self, z: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Maps an unconstrained vector to the latent variables.

        Args:
            z: the unconstrained vector [S, L].

        Returns:
            The latent variables by name, each [S, ...], and the log determinant [S] of the Jacobian.
        """
        # Constant shapes where that is possible: LiteRT's CompiledModel misreads computed ones.
        leading = [-1] if z.shape.rank == 2 else tf.shape(z)[:-1]
        parts = [
            tf.reshape(part, [*leading, *shape] if z.shape.rank == 2 else tf.concat([leading, shape], axis=0))
            for part, shape in zip(tf.split(z, self._sizes, axis=-1), self.unconstrained_shapes, strict=True)
        ]
        unconstrained = tf.nest.pack_sequence_as(self._unconstrained_structure, parts)
        ranks = [len(shape) for shape in self.unconstrained_shapes]
        log_jacobian = self._bijector.forward_log_det_jacobian(
            unconstrained, tf.nest.pack_sequence_as(self._unconstrained_structure, ranks)
        )
        values = tf.nest.flatten(self._bijector.forward(unconstrained))
        return dict(zip(self.names, values, strict=True)), tf.broadcast_to(log_jacobian, tf.shape(z)[:-1])

    def split(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Splits one unconstrained vector z [L] into its parts by name."""
        return dict(zip(self.names, np.split(z, np.cumsum(self._sizes)[:-1]), strict=True))

    def unconstrain(self, values: Mapping[str, Any], dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Maps latent variables by name, each [S, ...], to the unconstrained vector z [S, L].

        Args:
            values: the latent variables.
            dtype: that of the vector.
        """
        flat = [tf.convert_to_tensor(values[name], dtype) for name in self.names]
        parts = tf.nest.flatten(self._bijector.inverse(tf.nest.pack_sequence_as(self._structure, flat)))
        rows = tf.shape(flat[0])[0]
        sized = zip(parts, self._sizes, strict=True)
        return tf.concat([tf.reshape(part, [rows, size]) for part, size in sized], axis=-1)


def space(latents: Mapping[str, Latent | Sequence[int]] | tfd.JointDistribution) -> LatentSpace:
    """Makes the space of latent variables.

    Args:
        latents: for each name a `Latent`, or a shape if there is no constraint; or a joint distribution over the latent
            variables, whose supports are the constraints.

    Raises:
        ValueError: `latents` is neither, or has a discrete variable, or a bijector does not fit its variable's shape.
    """
    if isinstance(latents, tfd.JointDistribution | tfp.experimental.distributions.JointDistributionPinned):
        try:
            bijector = private_apis.joint_bijector(latents, _bijector)
        except AttributeError as error:
            # A discrete variable has no bijector, which TFP does not notice.
            raise ValueError(
                "`model` must have continuous latent variables, because q is a density. Sum a discrete one out of the "
                "joint density, by tfvae.inference.enumerated or a tfd.MixtureSameFamily over the data. Received: "
                f"{', '.join(_discrete(latents))}"
            ) from error
        except (TypeError, NotImplementedError) as error:
            # TFP 0.25 fails to make some with NumPy 2.4.
            raise ValueError(
                "`latents` must give the bijectors of this joint distribution, for which TFP cannot make them, as a "
                "dictionary of all latent variables. Received: a joint distribution over "
                f"{variables(latents)}"
            ) from error
        return LatentSpace(latents.event_shape, bijector, list(variables(latents)))
    if not isinstance(latents, Mapping) or not latents:
        raise ValueError(
            "`latents` must be a dictionary from the name of each latent variable to its shape or its tfvae.Latent, or "
            f"a joint distribution. Received: latents={checks.shown(latents)}"
        )
    shapes, bijectors = {}, {}
    # `tf.nest.flatten` sorts the keys of a dictionary.
    for name in sorted(latents):
        shapes[name], bijectors[name] = _checked(name, latents[name])
    return LatentSpace(shapes, tfb.JointMap(bijectors), list(shapes))


def _bijector(distribution: tfd.Distribution) -> tfb.Bijector | None:
    """The bijector to the support of a distribution; None if it is discrete."""
    inner = distribution
    while isinstance(inner, tfd.Independent | tfd.Sample | tfd.BatchBroadcast):
        inner = inner.distribution
    if isinstance(inner, tfd.Dirichlet | tfd.RelaxedOneHotCategorical):
        # TFP 0.25 fails to make its own, SoftmaxCentered, with NumPy 2.4.
        return StickBreaking()
    return distribution.experimental_default_event_space_bijector()


def _discrete(latents: Any) -> list[str]:
    """Describes the variables of a joint distribution that have no bijector, because they are discrete."""
    joint = getattr(latents, "distribution", latents)
    distributions = zip(variables(joint), tf.nest.flatten(joint.sample_distributions()[0]), strict=True)
    return [
        f"the discrete latent variable {name!r}, a {type(each).__name__}"
        for name, each in distributions
        if name in variables(latents) and _bijector(each) is None
    ]


def _checked(name: str, latent: Any) -> tuple[tf.TensorShape, tfb.Bijector]:
    """The shape and the bijector of a latent variable, checked to fit each other."""
    shape, bijector = latent if isinstance(latent, Latent) else (latent, None)
    bijector = tfb.Identity() if bijector is None else bijector
    if not isinstance(bijector, tfb.Bijector) or not isinstance(shape, Sequence | tf.TensorShape):
        raise ValueError(_message(name, latent))
    try:
        shape = tf.TensorShape(shape)
        unconstrained = bijector.inverse_event_shape(shape)
        given = bijector.forward(tf.zeros(unconstrained)).shape
    except (ValueError, TypeError, IndexError, tf.errors.OpError) as error:
        raise ValueError(_message(name, latent)) from error
    if given != shape:
        raise ValueError(_message(name, latent))
    # The same map, which can be exported.
    return shape, StickBreaking() if type(bijector) is tfb.IteratedSigmoidCentered else bijector


def _message(name: str, latent: Any) -> str:
    return (
        f"`latents[{name!r}]` must be a shape such as (), or a tfvae.Latent with a shape and a TFP bijector that gives "
        f"tensors of this shape. Received: {checks.shown(latent)}"
    )


def variables(joint: Any) -> dict[str, tuple[int, ...]]:
    """The variables of a joint distribution by name, with their shapes, in the order of `tf.nest.flatten`."""
    structure = joint.dtype
    if isinstance(structure, Mapping):
        names = sorted(structure)
    else:
        names = getattr(structure, "_fields", None) or private_apis.names_of(joint)
    shapes = tf.nest.flatten(tf.nest.map_structure(tf.TensorShape, joint.event_shape))
    return {name: tuple(shape.as_list()) for name, shape in zip(names, shapes, strict=True)}


def check_family(posterior: Posterior, dim: int) -> None:
    """Raises ValueError where a family of distributions cannot be one over an unconstrained space of a dimension."""
    if posterior.latent_dim not in (None, dim):
        raise ValueError(
            f"`posterior` must have latent_dim={dim}, that of the unconstrained latent variables, or None. "
            f"Received: latent_dim={posterior.latent_dim}"
        )
    if posterior.support != "real":
        raise ValueError(
            '`posterior` must have the support "real", that of the unconstrained latent variables. Received: '
            f"{type(posterior).__name__}, whose support is {posterior.support}"
        )


def describe(values: Mapping[str, Any], row: int) -> str:
    """Formats one row of the latent variables, for an error message."""
    parts = []
    for name, value in values.items():
        value = np.asarray(value[row])
        text = f"{value:.4g}" if value.ndim == 0 else np.array2string(value, precision=3, threshold=6, edgeitems=2)
        parts.append(f"{name}={text}")
    return ", ".join(parts)
