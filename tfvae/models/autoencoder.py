"""The base class of autoencoders: models in which every example has latent variables of its own."""

import abc
import functools
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo, renamed, seeds
from tfvae.callbacks import PosteriorCollapseWarning
from tfvae.models import log_weights, parts, suitability
from tfvae.models.signatures import AutoencoderExport
from tfvae.models.streaming import StreamDetector
from tfvae.models.variational_model import VariationalModel
from tfvae.objectives import Objective
from tfvae.training.batch import batches, check_ends, target_of
from tfvae.training.plan import LayerTraits

# How many outputs of a decoder show whether they suit the likelihood.
_EXAMPLES = 64
# The standard deviation of the z that show it. At this distance from 0 the biases of a decoder hardly matter, so that
# its outputs are of both signs unless an activation prevents it.
_APART = 10.0
# The name under which files say that a model was trained to remove noise.
_DENOISES = "denoises"


class Autoencoder(StreamDetector, AutoencoderExport, VariationalModel):
    """A model that encodes each example x into latent variables, and decodes these.

    A subclass defines `elbo_terms`; `build`, which must set `event_shape`; `_encode`; and `call`, which returns the
    reconstruction.

    Args:
        objective: what is maximised; None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.
    """

    warnings = (*VariationalModel.warnings, PosteriorCollapseWarning)
    # The metrics that are close to 0 if z, or one of its layers, carries no information about x.
    collapsing: tuple[str, ...] = ("kl",)
    # The constructor's arguments that are Keras objects, and are serialized by Keras.
    _PARTS: ClassVar[tuple[str, ...]] = ()
    # The number of rows that the decoder evaluates for each example and draw.
    _rows_per_example = 1
    event_shape: tuple[int, ...]

    def __init__(self, objective: Objective | None = None, **keras_kwargs: Any) -> None:
        super().__init__(objective, **keras_kwargs)
        # None until the model is built.
        self.event_shape = None  # type: ignore[assignment]
        # Whether the last training was of pairs of noisy x and clean y. Then x may be what the likelihood cannot give.
        self.denoises = False
        self.decision = None

    def _build_where_known(self, encoder: keras.Model) -> None:
        """Builds the model at once if the encoder declares the shape of x."""
        declared = parts.input_shapes(encoder)
        if declared is not None and None not in declared[0][1:]:
            self.build(declared[0])

    @property
    def undefined(self) -> dict[str, str]:
        """Which numbers the model does not have: see `VariationalModel.undefined`."""
        # While the constructor runs, there are no parts.
        return parts.undefined(getattr(self, "posterior", None), getattr(self, "likelihood", None))

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model] | None:
        """The network that computes the parameters of p(x|z), after the name of its argument; None if there is none."""
        return None

    def _parameters_of_x(self, z: tf.Tensor, *given: tf.Tensor) -> tf.Tensor:
        """The parameters of p(x|z) [B, ...], for z and further inputs in the form in which `decode` takes them."""
        raise NotImplementedError(f"{type(self).__name__} does not define the parameters of p(x|z)")

    def _decode(self, z: tf.Tensor, *given: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z) [B, ...]; the arguments are those of `_parameters_of_x`."""
        return self.likelihood.mean(self._parameters_of_x(z, *given))

    def _example_z(self, rows: int) -> tf.Tensor:
        """Some z, in the form in which `decode` takes them, that are far enough apart to show what the decoder does."""
        return _APART * tf.random.stateless_normal([rows, self._z_dim], [0, 0])

    @abc.abstractmethod
    def _encode(self, x: Any, training: bool = False) -> Any:
        """The result of `encode` for one batch, as tensors."""

    def operations_per_example(self, layers: LayerTraits) -> float:
        """Estimates the number of floating-point operations per example in a training step.

        Args:
            layers: the traits of the model's layers.
        """
        # One forward pass, and a backward pass of twice the cost. The encoder is counted once per sample, which is more
        # than it costs.
        return 3.0 * layers.operations * self.objective.num_samples * self._rows_per_example

    def target(self, data: Any) -> Any:
        """Returns y, which the likelihood is of, if it has the shape of x: see `Trainer.target`.

        Args:
            data: as for `unpack`.
        """
        x, _ = self.unpack(data)
        return target_of(data, x["x"] if isinstance(x, dict) else x)

    def check_batch(self, batch: Any, is_encoded_only: bool = False) -> None:
        """Checks x and, if there is one, the y that the likelihood is of: see `Trainer.check_batch`."""
        x, target = tf.nest.map_structure(checks.to_numpy, self.unpack(batch)[0]), self.target(batch)
        if is_encoded_only:
            self.check_data(x, self.denoises)
        elif target is None:
            self.check_data(x)
        else:
            # Noise may take x out of the support of the likelihood, which is not of x.
            self.check_data(x, is_encoded_only=True)
            target = checks.to_numpy(target, "y")
            checks.check_same_length(x=tf.nest.flatten(x)[0], y=target)
            checks.check_finite(target, "y", allow_nan=self.likelihood.allows_missing)
            try:
                self.likelihood.check(self._events(target))
            except ValueError as error:
                raise ValueError(f"`y` has the shape of x, so the likelihood is of y: {error}") from error

    def check_data(self, x: np.ndarray, is_encoded_only: bool = False) -> None:
        """Builds the model if it is not built yet, and raises ValueError if x cannot be data of its likelihood.

        Args:
            x: the data [N, ...].
            is_encoded_only: whether the likelihood is not of x, so that only its shape and NaN are checked.
        """
        if self.event_shape is None:
            if x.ndim < 2:
                raise ValueError(f"`x` must have the shape [N, ...]. Received: x of shape {list(x.shape)}")
            with self.distribute_strategy.scope():
                self.build((None, *x.shape[1:]))
        checks.check_shape(x, self.event_shape)
        checks.check_finite(
            x,
            allow_nan=self.likelihood.allows_missing,
            advice="; if NaN marks missing values, wrap the likelihood in tfvae.likelihoods.Missing",
        )
        checks.check_float32(x)
        if not is_encoded_only:
            self.likelihood.check(self._events(x))

    def _events(self, x: np.ndarray) -> np.ndarray:
        """The data, or parameters of their likelihood, in rows of what one likelihood is of: x itself, or its steps."""
        return x

    def check_training(self, batch: Any) -> None:
        """Checks that the decoder and the data suit the likelihood: see `tfvae.models.suitability`.

        Args:
            batch: one element of valid data as `fit` takes them.
        """
        x, target = self.unpack(batch)[0], self.target(batch)
        self.denoises = target is not None
        # It was of the weights before this training.
        self.decision = None
        x = checks.to_numpy(target if self.denoises else x["x"] if isinstance(x, dict) else x)
        if checks.find(x, lambda part: ~np.isnan(part)) is None:
            raise ValueError("`x` must hold at least one number to learn from. Received: nothing but NaN")
        if self._decoder_of_x is None:
            return
        name, decoder = self._decoder_of_x

        def outputs() -> np.ndarray:
            z = self._example_z(_EXAMPLES)
            given = (tf.constant(array, tf.float32) for array in self._example_conditions(_EXAMPLES))
            return self._events(np.asarray(self._parameters_of_x(z, *given), np.float32))

        rows = suitability.some_rows(self._events(x))
        suitability.check(name, decoder, outputs, self.likelihood, rows)

    def encode(self, x: Any, batch_size: int = 256) -> Any:
        """Computes the parameters of q(z|x).

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The parameters by name; for `DiagonalNormal` these are `loc` and `scale`, each [N, L].
        """
        checked = self._checked_batches(x, batch_size, self.denoises)
        return _concatenated([self._run(self._encode, part) for part in checked])

    def reconstruct(self, x: Any, batch_size: int = 256, sample: bool = False, seed: int | None = None) -> np.ndarray:
        """Computes the mean of p(x|z) at the mean of q(z|x), like `predict`, but without a progress bar.

        The mean is the best guess of x, and varies less than data do. With `sample` the result is a draw of what the
        model takes x for, z ~ q(z|x) and then p(x|z), with the spread and the noise of data.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            batch_size: how many examples are computed at a time.
            sample: whether to draw.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The reconstruction [N, ...].
        """
        checked = self._checked_batches(x, batch_size, self.denoises)
        if checks.boolean("sample", sample):
            seed_of_z, seed_of_x = seeds.of_z_and_x(self._seed(seed))
            draws = seeds.for_each(checked, seed_of_z)
            return self._drawn((self._run(self._parameters_given_x, *each) for each in draws), seed_of_x)
        return _concatenated([self._run(self.call, part) for part in checked])

    def log_likelihood(
        self, x: Any, num_samples: int = 1000, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Estimates log p(x) by importance sampling, with q(z|x) as the proposal.

        log p(x) >= E[log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)],  z_k ~ q(z|x), tight as K grows

        Unless `compile` sets `jit_compile`, XLA is used if many draws are made from a model of dense layers.

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
        # Each chunk is summed first, so that only a few chunks are in memory at a time.
        total = functools.partial(np.logaddexp.reduce, axis=0, dtype=float)
        sums = [total([total(chunk) for chunk in chunks]) for chunks in batches]
        return np.concatenate(sums) - np.log(num_samples)

    def _log_weights(
        self, x: Any, num_samples: int, batch_size: int, seed: int | None
    ) -> Iterator[Iterator[np.ndarray]]:
        """The log importance weights of each batch, in chunks [K', B]; the arguments are those of `log_likelihood`."""
        self.check_defined("elbo", "An estimate of log p(x) by importance sampling")
        num_samples = checks.positive_integer("num_samples", num_samples)
        return log_weights.in_chunks(self, self._checked_batches(x, batch_size), num_samples, self._seed(seed))

    def _draw_log_weights(self, x: Any, seed: tf.Tensor, num_samples: int) -> tf.Tensor:
        return self.elbo_terms(x, elbo.Sampling(num_samples, seed)).log_weights

    def score(
        self, x: Any, epsilon: Any = None, batch_size: int = 256, *, seed: int | None = None
    ) -> dict[str, np.ndarray]:
        """Computes the terms of the bound at a single z for each x, for example to detect anomalies.

        Args:
            x: arrays with N rows, as for `fit`.
            epsilon: noise from N(0, I) [N, L], from which z ~ q(z|x) is computed, where L counts all latent variables;
                None means that z is the mean, or the `center`, of q(z|x), unless there is a seed.
            batch_size: how many examples are computed at a time.
            seed: draws `epsilon`; the same seed draws the same.

        Returns:
            `elbo`, `reconstruction_log_likelihood` and `kl`, each [N], in nats per example, without those that are
            `undefined`. With a prior for which KL has no closed form, `kl` is log q(z|x) - log p(z) at that z: about
            L / 2 more at the mean than on average, so draw z by a seed to compare with `evaluate`.

        Raises:
            ValueError: an argument is invalid, or both `epsilon` and `seed` are given.
        """
        x = self._arrays(x)
        self.check_data(x)
        if seed is not None:
            if epsilon is not None:
                raise ValueError(f"`seed` must be None where `epsilon` is given. Received: seed={checks.shown(seed)}")
            shape = [len(tf.nest.flatten(x)[0]), *self._noise_shape(x)]
            epsilon = tf.random.stateless_normal(shape, self._seed(seed)).numpy()
        if epsilon is None:
            outputs = [self._run(self._score_at_mean, batch) for batch in batches(x, batch_size)]
        else:
            epsilon = self._checked_noise("epsilon", epsilon, *self._noise_shape(x))
            checks.check_same_length(x=tf.nest.flatten(x)[0], epsilon=epsilon)
            pairs = zip(batches(x, batch_size), batches(epsilon, batch_size), strict=True)
            outputs = [self._run(self._score, *pair) for pair in pairs]
        return renamed.Scores({name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]})

    def _scored(self, x: Any, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The terms of the bound at a single z for each x, and the output of the decoder at that z.

        Args:
            x: the data [B, ...].
            epsilon: the noise [B, L] from which z ~ q(z|x) is computed; None means that z is the mean, or the `center`,
                of q(z|x).

        Returns:
            What `score` returns, each [B] in nats, and the parameters of p(x|z) [B, ...].
        """
        raise NotImplementedError(f"{type(self).__name__} cannot compute a score from given noise")

    def _score(self, x: Any, epsilon: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._scored(x, epsilon)[0]

    def _score_at_mean(self, x: Any) -> dict[str, tf.Tensor]:
        return self._scored(x)[0]

    def _reconstruct_and_score(self, x: Any) -> dict[str, tf.Tensor]:
        scores, parameters = self._scored(x)
        return {"mean": self.likelihood.mean(parameters), **scores}

    def _noise_shape(self, x: Any) -> tuple[int, ...]:
        """The shape of the noise epsilon of one example, for checked data."""
        return (self._epsilon_dim,)

    def _checked_noise(self, argument: str, z: Any, *shape: int | None) -> np.ndarray:
        """Checks an array [N, *shape] that comes from the user: z, or the noise for it."""
        z = checks.to_numpy(z, argument)
        checks.check_shape(z, shape, argument)
        checks.check_finite(z, argument)
        return z

    def _decoded(self, *arrays: np.ndarray, batch_size: int, **constants: int) -> np.ndarray:
        """The outputs of the model's `_decode` for arrays with N rows."""
        together = zip(*(batches(array, batch_size) for array in arrays), strict=True)
        return _concatenated([self._run(self._decode, *part, **constants) for part in together])

    def _generated(self, *arrays: np.ndarray, batch_size: int, sample: bool, seed: tf.Tensor) -> np.ndarray:
        """The mean of p(x|z), or with `sample` a draw of it, for z and further arrays with N rows."""
        if not checks.boolean("sample", sample):
            return self._decoded(*arrays, batch_size=batch_size)
        together = zip(*(batches(array, batch_size) for array in arrays), strict=True)
        return self._drawn((self._run(self._parameters_of_x, *part) for part in together), seeds.of_z_and_x(seed)[1])

    def _drawn(self, parameters: Iterable[tf.Tensor], seed: tf.Tensor) -> np.ndarray:
        """A draw of p(x|z) for each row of its parameters, which come in batches."""
        # Outside of the compiled functions, because XLA cannot draw from every distribution.
        pairs = seeds.for_each(parameters, seed)
        return np.concatenate([self.likelihood.distribution(each).sample(seed=part).numpy() for each, part in pairs])

    def _parameters_given_x(self, x: Any, seed: tf.Tensor) -> tf.Tensor:
        """The parameters of p(x|z) [B, ...] at a draw z ~ q(z|x)."""
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        return self._scored(x, tf.random.stateless_normal([rows, self._epsilon_dim], seed))[1]

    def _arrays(self, x: Any) -> Any:
        """Converts arrays that a user passed to a method to the form in which `check_data` and `_run` take them."""
        x = self.of_rows(x)
        return checks.to_numpy(self.unpack(x)[0] if isinstance(x, dict) else x)

    def _checked_batches(self, x: Any, batch_size: int, is_encoded_only: bool = False) -> Iterator[Any]:
        """Float32 batches [B, ...] of arrays or of a dataset, each checked before it is yielded."""
        if not isinstance(x, tf.data.Dataset):
            x = self._arrays(x)
            self.check_data(x, is_encoded_only)
            yield from batches(x, batch_size)
            return
        check_ends(x)
        batch = None
        for element in self.of_rows(x):
            batch = tf.nest.map_structure(checks.to_numpy, self.unpack(element)[0])
            self.check_data(batch, is_encoded_only)
            yield tf.nest.map_structure(lambda array: tf.cast(array, tf.float32), batch)
        if batch is None:
            raise ValueError(f"`x` must hold at least one batch. Received: {checks.shown(x)}")

    def _check_built(self, method: str) -> None:
        if self.event_shape is None:
            raise ValueError(
                f"Build the model before `{method}()`: fit it, or call it. Received: a model not yet built"
            )

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves what `StatefulModel` does, and whether the model was trained to remove noise."""
        super().save_own_variables(store)
        if self.denoises:
            store[_DENOISES] = np.array(True)

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved."""
        super().load_own_variables(store)
        self.denoises = _DENOISES in store.keys()  # noqa: SIM118

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self._PARTS}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Makes a model with new weights from what `get_config` returned."""
        made = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in cls._PARTS}
        return cls(**{**config, **made})


def _concatenated(outputs: list[Any]) -> Any:
    """Concatenates the outputs of batches, each a tensor or a structure of tensors, into arrays of all rows."""
    return tf.nest.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *outputs)
