"""The conditional variational autoencoder, all of whose distributions may depend on a given condition."""

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods import Likelihood
from tfvae.models import parts
from tfvae.models.vae import VAE
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior
from tfvae.training.batch import unpack_named

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfvae")
class ConditionalVAE(VAE):
    """A variational autoencoder of x given a condition c; its objective is a lower bound on log p(x|c).

    q(z|x, c) = posterior(encoder([x, c])),  p(x|z, c) = likelihood(decoder([z, c])),  p(z|c) = prior

    Data are dictionaries, `fit({"x": x, "condition": condition})`, as are the elements of a dataset and the data that
    the other methods take. The condition is a vector of numbers; for classes, use `keras.utils.to_categorical(labels)`.

    Args:
        encoder: a Keras model from the list of x [B, ...] and the condition [B, C] to features [B, F].
        decoder: a Keras model from the list of z [B, L] and the condition [B, C] to the likelihood's parameters.
        latent_dim: L, the dimension of z.
        condition_dim: C, the dimension of the condition.
        posterior: see `tfvae.VAE`.
        prior: p(z|c). Either a `Prior`, which is the same for every condition, or a `Posterior`, such as
            `DiagonalNormal()`, whose parameters are computed from the condition. None means `StandardNormal()`.
        likelihood: see `tfvae.VAE`.
        objective: see `tfvae.VAE`.
        prior_network: a Keras model from the condition [B, C] to the features [B, F] from which the parameters of the
            prior are computed; None computes them from the condition itself.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.

    Reference: Sohn et al. 2015, Learning Structured Output Representation using Deep Conditional Generative Models,
    equation 4.
    """

    _PARTS = (*VAE._PARTS, "prior_network")
    _prior_kinds: ClassVar[tuple[type, ...]] = (Prior, Posterior)
    completes = False

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        condition_dim: int,
        posterior: Posterior | None = None,
        prior: Prior | Posterior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        prior_network: keras.Model | None = None,
        **keras_kwargs: Any,
    ) -> None:
        # Set before the parts, because the constructor of the base class may call `build`.
        self.condition_dim = checks.positive_integer("condition_dim", condition_dim)
        self.prior_network = prior_network
        if prior_network is not None:
            parts.checked_network("prior_network", prior_network)
            if not isinstance(prior, Posterior):
                raise ValueError(
                    "`prior_network` needs a `prior` that reads its features, such as DiagonalNormal(). Received: "
                    f"prior={checks.shown(prior)}"
                )
        if prior is not None and prior is posterior:
            raise ValueError(
                "`prior` and `posterior` must be two different parts, each with its own weights. Received: one "
                f"{type(prior).__name__} for both"
            )
        super().__init__(encoder, decoder, latent_dim, posterior, prior, likelihood, objective, **keras_kwargs)

    @property
    def _condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"condition": (self.condition_dim,)}

    # The signatures of an export take the condition as the networks do.
    _given_shapes = _condition_shapes
    _meaning_of_given = " The condition holds the numbers that the networks take, such as a one-hot vector for a class."

    def build(self, input_shape: Any) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...], or a dictionary of shapes with the key "x".
        """
        if self.event_shape is not None:
            return
        shape = input_shape["x"] if isinstance(input_shape, dict) else input_shape
        declared = parts.input_shapes(self.encoder)
        if declared is not None and [tuple(given[1:]) for given in declared[1:]] != [(self.condition_dim,)]:
            raise ValueError(
                f"`encoder` must take the list of x and the condition [B, {self.condition_dim}]. Received: an encoder "
                f"whose inputs have the shapes {[list(given) for given in declared]}"
            )
        if isinstance(self.prior, Posterior) and not self.prior.built:
            condition = keras.KerasTensor((None, self.condition_dim))
            if self.prior_network is not None:
                condition = parts.features_of("prior_network", self.prior_network, condition)
            parts.build(self.prior, condition.shape)
        super().build(shape)

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Returns x and the condition, by name, and the sample weights from one element of the data passed to `fit`.

        Args:
            data: a dictionary with the keys "x" and "condition", alone or in a tuple as for `VAE`.

        Raises:
            ValueError: `data` has no such dictionary.
        """
        return unpack_named(data, ("x", "condition"))

    def check_data(self, x: dict[str, np.ndarray], is_encoded_only: bool = False) -> None:
        """Builds the model if it is not built yet, and raises ValueError if x or the condition is not valid.

        Args:
            x: a dictionary of x [N, ...] and condition [N, C].
            is_encoded_only: see `VAE`.
        """
        super().check_data(x["x"], is_encoded_only)
        self._check_condition(x["condition"])
        checks.check_same_length(**x)

    def decode(self, z: Any, condition: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z, c).

        Args:
            z: an array [N, L].
            condition: an array [N, C].
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        z = self._checked_noise("z", z, self.latent_dim)
        condition = self._check_condition(condition)
        checks.check_same_length(z=z, **dict.fromkeys(self._given_shapes, condition))
        return self._decoded(z, condition, batch_size=batch_size)

    def generate(
        self, condition: Any, seed: int | None = None, batch_size: int = 256, sample: bool = False
    ) -> np.ndarray:
        """Draws z ~ p(z|c) and computes the mean of p(x|z, c).

        Args:
            condition: an array [N, C]: one example is generated for each row.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.

        Returns:
            The generated examples [N, ...].
        """
        self._check_built("generate")
        condition = self._check_condition(condition)
        state = self._seed(seed)
        z = self._run(self._draw_prior, tf.cast(condition, tf.float32), state)
        return self._generated(z.numpy(), condition, batch_size=batch_size, sample=sample, seed=state)

    def _check_condition(self, condition: Any) -> np.ndarray:
        condition = checks.to_numpy(condition, "condition")
        if condition.ndim == 1 and np.issubdtype(condition.dtype, np.integer):
            raise ValueError(
                f"`condition` must have the shape [N, {self.condition_dim}]; for classes, use "
                "keras.utils.to_categorical(labels). Received: "
                f"integers of shape {list(condition.shape)}"
            )
        checks.check_shape(condition, (self.condition_dim,), "condition")
        checks.check_finite(condition, "condition")
        return condition

    def _arrays(self, x: Any) -> dict[str, np.ndarray]:
        return {name: checks.to_numpy(array, name) for name, array in self.unpack(x)[0].items()}

    def _split(self, x: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        x, _ = unpack_named(x, ("x", "condition"))
        return x["x"], (x["condition"],)

    def _together(self, x: tf.Tensor, *conditions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"x": x, "condition": conditions[0]}

    def _connect_prior(self, event_shape: tuple[int, ...]) -> None:
        if not isinstance(self.prior, Posterior):
            parts.refuse_prior_of_encoder(self)

    def _example_conditions(self, rows: int) -> tuple[np.ndarray, ...]:
        return (np.resize(np.eye(self.condition_dim), (rows, self.condition_dim)),)

    def _prior_parameters(self, condition: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The parameters of p(z|c), for a prior that depends on the condition."""
        features = condition if self.prior_network is None else self.prior_network(condition, training=training)
        return self.prior(features)

    def _prior_given(self, *conditions: tf.Tensor, training: bool = False) -> tfd.Distribution:
        if isinstance(self.prior, Posterior):
            return self.prior.distribution(self._prior_parameters(conditions[0], training))
        return super()._prior_given()

    def _from_prior(self, epsilon: tf.Tensor, *conditions: tf.Tensor) -> tf.Tensor:
        if isinstance(self.prior, Posterior):
            return self.prior.sample_from(self._prior_parameters(conditions[0]), epsilon)
        return super()._from_prior(epsilon)

    def _draw_prior(self, condition: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws z [B, L] ~ p(z|c), one for each condition."""
        shape = () if isinstance(self.prior, Posterior) else tf.shape(condition)[:1]
        return self._prior_given(condition).sample(shape, seed=seed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "condition_dim": self.condition_dim}
