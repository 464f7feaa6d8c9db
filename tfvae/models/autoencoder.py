"""What every model of data with latent variables of their own for each example can do."""

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.callbacks import PosteriorCollapseWarning
from tfvae.likelihoods import Likelihood
from tfvae.models import log_weights
from tfvae.models.variational_model import VariationalModel
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior
from tfvae.training import plan
from tfvae.training.batch import batches


class Autoencoder(VariationalModel):
    """A model of examples x that encodes each into latent variables and decodes these.

    A subclass has `elbo_terms`, `build`, which sets `event_shape`, `_encode` and `call`, the reconstruction.

    Args:
        objective: what is maximised; None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.
    """

    warnings = (*VariationalModel.warnings, PosteriorCollapseWarning)
    # The metrics that are near 0 where z, or a layer of it, tells nothing of x.
    collapsing: tuple[str, ...] = ("kl",)
    # The constructor's arguments that Keras serializes.
    _PARTS: ClassVar[tuple[str, ...]] = ()
    # What the signatures of an export take beside x, z or epsilon, with the shape for one example.
    _given_shapes: ClassVar[dict[str, tuple[int, ...]]] = {}
    # Why there is no export.
    _no_export: ClassVar[str | None] = None
    # How many rows the decoder evaluates for each example and draw.
    _rows_per_example = 1
    event_shape: tuple[int, ...]

    def __init__(self, objective: Objective | None = None, **keras_kwargs: Any) -> None:
        super().__init__(objective, **keras_kwargs)
        # Until Keras builds it.
        self.event_shape = None  # type: ignore[assignment]

    @abc.abstractmethod
    def _encode(self, x: Any, training: bool = False) -> Any:
        """What `encode` gives of a batch."""

    def _operations(self) -> float:
        # Forward, and twice as many backward; the encoder's are counted for each sample too.
        return 3.0 * plan.operations(self._flatten_layers()) * self.objective.num_samples * self._rows_per_example

    def check_data(self, x: np.ndarray) -> None:
        """Builds the model where that is still to be done, and raises ValueError when it cannot have produced x."""
        if self.event_shape is None:
            if x.ndim < 2:
                raise ValueError(f"`x` must have the shape [N, ...]. Received: x of shape {list(x.shape)}")
            with self.distribute_strategy.scope():
                self.build((None, *x.shape[1:]))
        checks.check_shape(x, self.event_shape)
        checks.check_finite(
            x,
            allow_nan=self.likelihood.allows_missing,
            advice="; where NaN marks what is missing, wrap the likelihood in tfvae.likelihoods.Missing",
        )
        self.likelihood.check(x)

    def encode(self, x: Any, batch_size: int = 256) -> Any:
        """Computes the parameters of q(z|x).

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The parameters by name: `loc` and `scale`, each [N, L], for `DiagonalNormal`.
        """
        return _concatenated([self._run(self._encode, batch) for batch in self._checked_batches(x, batch_size)])

    def reconstruct(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z) at the mean of q(z|x): `predict` without its progress bar.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The reconstruction [N, ...].
        """
        return _concatenated([self._run(self.call, batch) for batch in self._checked_batches(x, batch_size)])

    def log_likelihood(
        self, x: Any, num_samples: int = 1000, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Estimates log p(x) by importance sampling, with q(z|x) as the proposal.

        log p(x) >= E[log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)],  z_k ~ q(z|x), tight as K grows

        XLA compiles many draws from a model of dense layers, where `compile` leaves it open.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            num_samples: K, the number of draws for each example.
            batch_size: how many examples are computed at a time; memory is bounded whatever K is.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The estimate [N], in nats per example.

        Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8.
        """
        batches = self._log_weights(x, num_samples, batch_size, seed)
        # In each chunk first, so that no more than a few are in memory.
        total = functools.partial(np.logaddexp.reduce, axis=0, dtype=float)
        sums = [total([total(chunk) for chunk in chunks]) for chunks in batches]
        return np.concatenate(sums) - np.log(num_samples)

    def _log_weights(
        self, x: Any, num_samples: int, batch_size: int, seed: int | None
    ) -> Iterator[Iterator[np.ndarray]]:
        """The log importance weights of each batch, in chunks [K', B]; the arguments are those of `log_likelihood`."""
        num_samples = checks.positive_integer("num_samples", num_samples)
        return log_weights.in_chunks(self, self._checked_batches(x, batch_size), num_samples, self._seed(seed))

    def _draw_log_weights(self, x: Any, seed: tf.Tensor, num_samples: int) -> tf.Tensor:
        return self.elbo_terms(x, elbo.Sampling(num_samples, seed)).log_weights

    def score(self, x: Any, epsilon: Any = None, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Computes the terms of the bound at one z for each x: a score for anomalies, with no noise of its own.

        Args:
            x: arrays with N rows, as for `fit`.
            epsilon: noise from N(0, I) [N, L] that z ~ q(z|x) is made of, L that of all latent variables together; None
                takes the mean, or the `center`, of q(z|x).
            batch_size: how many examples are computed at a time.

        Returns:
            `elbo`, `log_likelihood` and `kl`, each [N], in nats per example.
        """
        x = self._arrays(x)
        self.check_data(x)
        if epsilon is None:
            outputs = [self._run(self._score_at_mean, batch) for batch in batches(x, batch_size)]
        else:
            epsilon = self._checked_noise("epsilon", epsilon, self._epsilon_dim)
            checks.check_same_length(x=tf.nest.flatten(x)[0], epsilon=epsilon)
            pairs = zip(batches(x, batch_size), batches(epsilon, batch_size), strict=True)
            outputs = [self._run(self._score, *pair) for pair in pairs]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def _together(self, x: tf.Tensor, *conditions: tf.Tensor) -> Any:
        """Data in the form in which `elbo_terms` takes them, from what a signature of an export takes."""
        return x

    def _example_conditions(self, rows: int) -> tuple[np.ndarray, ...]:
        """What an export is compared at where no data are given, beside x."""
        return ()

    @property
    def _functions_of_x(self) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
        """What an export has beside the signatures of every VAE, by name."""
        return {}

    def _generate(self, epsilon: tf.Tensor, *conditions: tf.Tensor) -> tf.Tensor:
        return self._decode(self._from_prior(epsilon, *conditions), *conditions)

    def _checked_noise(self, argument: str, z: Any, dim: int) -> np.ndarray:
        """The array [N, L] that a user gave."""
        z = checks.to_numpy(z, argument)
        checks.check_shape(z, (dim,), argument)
        checks.check_finite(z, argument)
        return z

    def _decoded(self, *arrays: np.ndarray, batch_size: int, **constants: int) -> np.ndarray:
        """What the model's `_decode` gives of arrays with N rows."""
        parts = zip(*(batches(array, batch_size) for array in arrays), strict=True)
        return _concatenated([self._run(self._decode, *part, **constants) for part in parts])

    def _arrays(self, x: Any) -> Any:
        """Arrays that a user gave to a method, in the form in which they are checked and computed with."""
        return checks.to_numpy(self.unpack(x)[0] if isinstance(x, dict) else x)

    def _checked_batches(self, x: Any, batch_size: int) -> Iterator[Any]:
        """Batches [B, ...] of arrays or of a dataset, float32, each checked before it is used."""
        if not isinstance(x, tf.data.Dataset):
            x = self._arrays(x)
            self.check_data(x)
            yield from batches(x, batch_size)
            return
        batch = None
        for element in x:
            batch = tf.nest.map_structure(checks.to_numpy, self.unpack(element)[0])
            self.check_data(batch)
            yield tf.nest.map_structure(lambda array: tf.cast(array, tf.float32), batch)
        if batch is None:
            raise ValueError(f"`x` must hold at least one batch. Received: {x!r}")

    def _check_built(self, method: str) -> None:
        if self.event_shape is None:
            raise ValueError(
                f"Build the model before `{method}()`: fit it, or call it. Received: a model not yet built"
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self._PARTS}
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The model that `get_config` described, with new weights."""
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in cls._PARTS}
        return cls(**{**config, **parts})


def check_part(name: str, part: Any, *kinds: type) -> None:
    """Raises ValueError unless a part of a model is of one of some classes.

    Args:
        name: the argument's name.
        part: what was given.
        kinds: the classes.
    """
    if not isinstance(part, kinds):
        expected = " or ".join(f"{_article(kind.__name__)} {kind.__name__}" for kind in kinds)
        raise ValueError(f"`{name}` must be {expected}. Received: {part!r}")


def refuse_path_gradients(model: Autoencoder) -> None:
    """Raises ValueError where the objective of a model takes gradients through z alone, which the model has not."""
    if model.objective.path_gradient:
        raise ValueError(
            f"`objective` must take the gradient of the terms themselves: a {type(model).__name__} has no path "
            f"gradients. Received: objective={model.objective!r}"
        )


def check_densities(posterior: Posterior, prior: Prior | Posterior, objective: Objective, name: str = "prior") -> None:
    """Checks that a model will know the densities that it needs.

    Args:
        posterior: q(z|x).
        prior: p(z).
        objective: what is maximised.
        name: the argument that the prior is.

    Raises:
        ValueError: the prior has not the support of the posterior.
        NotImplementedError: a distribution knows its density at its own draws alone, and more is needed.
    """
    if prior.support not in (None, posterior.support):
        raise ValueError(
            f"`{name}` must have the support of {type(posterior).__name__}, {posterior.support}. "
            f"Received: {type(prior).__name__}, of which it is {prior.support}"
        )
    if isinstance(prior, Posterior) and not prior.has_log_prob:
        raise NotImplementedError(
            f"`{name}` must know log p(z) of any z. Received: "
            f"{type(prior).__name__}, which knows it at its own draws alone"
        )
    if objective.path_gradient and not posterior.has_log_prob:
        raise NotImplementedError(
            "`objective` must take no path gradients (sticking_the_landing, doubly_reparameterized) with "
            f"{type(posterior).__name__}, whose log q(z|x) is known at its own draws alone. Received: "
            f"objective={objective!r}"
        )


def refuse_prior_of_encoder(model: Autoencoder) -> None:
    """Raises ValueError where a prior is made of what the encoder gives of x alone, which the model has not."""
    if type(model.prior).connect is not Prior.connect:
        raise ValueError(
            f"`prior` must not be made of q(z|x), which a {type(model).__name__} has not for x alone. Received: "
            f"{model.prior!r}"
        )


def set_latent_dim(name: str, part: Any, latent_dim: int) -> None:
    """Gives a part its latent dimension.

    Args:
        name: the argument's name.
        part: a posterior or a prior.
        latent_dim: L.

    Raises:
        ValueError: it has another one.
    """
    if part.latent_dim is None:
        part.latent_dim = latent_dim
    elif part.latent_dim != latent_dim:
        raise ValueError(
            f"`{name}` must have the model's latent_dim, {latent_dim}, or None and belong to no other "
            f"model. Received: a {name} with latent_dim={part.latent_dim}"
        )


def check_network(name: str, network: Any) -> None:
    """Raises ValueError unless a network is a Keras layer or model.

    Args:
        name: the argument's name.
        network: what was given.
    """
    if not isinstance(network, keras.layers.Layer):
        raise ValueError(f"`{name}` must be a Keras model. Received: {network!r}")


def features_of(name: str, network: keras.Model, given: Any) -> keras.KerasTensor:
    """What a network gives of symbolic inputs.

    Args:
        name: the argument's name.
        network: the network.
        given: a `keras.KerasTensor`, or a list of such.

    Raises:
        ValueError: it is not one tensor of features [B, F].
    """
    features = network(given)
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2 or features.shape[1] is None:
        raise ValueError(
            f"`{name}` must give one tensor of features [B, F]; end it with keras.layers.Flatten() where the "
            f"features have more axes. Received: {_article(name)} {name} that gives "
            f"{describe(features)}"
        )
    return features


def likelihood_parameters_of(
    name: str, network: keras.Model, given: Any, likelihood: Likelihood, event_shape: tuple[int, ...]
) -> keras.KerasTensor:
    """What a decoder gives of symbolic inputs.

    Args:
        name: the argument's name.
        network: the decoder.
        given: a `keras.KerasTensor`, or a list of such.
        likelihood: the likelihood that takes it.
        event_shape: the shape of one example.

    Raises:
        ValueError: the likelihood needs another shape.
    """
    parameters = network(given)
    expected = likelihood.parameter_shape(event_shape)
    if not isinstance(parameters, keras.KerasTensor) or tuple(parameters.shape[1:]) != expected:
        raise ValueError(
            f"`{name}` must give one tensor of shape {[None, *expected]}: the parameters that "
            f"{type(likelihood).__name__} needs for x of shape {[None, *event_shape]}. Received: a {name} "
            f"that gives {describe(parameters)}"
        )
    return parameters


def input_shapes(network: keras.Model) -> list[tuple[int | None, ...]] | None:
    """The shapes of the inputs that a network declares, or None where it declares none, or names them."""
    shape = getattr(network, "input_shape", None)
    if isinstance(shape, tuple):
        return [shape]
    return shape if isinstance(shape, list) else None


def describe(outputs: Any) -> str:
    """Names what a network gives, for an error message."""
    if isinstance(outputs, keras.KerasTensor):
        return f"a tensor of shape {list(outputs.shape)}"
    if isinstance(outputs, list | tuple | dict):
        return f"a {type(outputs).__name__} of {len(outputs)} outputs"
    return repr(outputs)


def _article(name: str) -> str:
    return "an" if name[0] in "aeiouAEIOU" else "a"


def _concatenated(outputs: list[Any]) -> Any:
    """Outputs of batches, each a tensor or a structure of such, as arrays of all rows."""
    return tf.nest.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *outputs)
