"""The variational autoencoder: a posterior that is amortised by an encoder, and a likelihood fed by a decoder."""

import functools
from collections.abc import Iterator
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo, inputs
from tfvae.likelihoods import Likelihood, Normal
from tfvae.model import VariationalModel
from tfvae.objectives import Objective
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.priors import Prior, StandardNormal

tfd = tfp.distributions

# The most elements of x, 16 MB for each tensor, and the most rows of the decoder that one chunk of `log_likelihood`
# evaluates: large enough for fast matrix products, small enough for the cache and for any number of samples.
_CHUNK_ELEMENTS = 2**22
_CHUNK_ROWS = 2**16


@keras.saving.register_keras_serializable("tfvae")
class VAE(VariationalModel):
    """A variational autoencoder.

    q(z|x) = posterior(encoder(x)),  p(x|z) = likelihood(decoder(z)),  p(z) = prior

    `model(x)` and `predict` give the reconstruction: the mean of p(x|z) at the mean of q(z|x). The model is built at
    once when the encoder knows its input shape, and by the first data otherwise.

    Args:
        encoder: a Keras model from x [B, ...] to features [B, F].
        decoder: a Keras model from z [B, L] to the likelihood's parameters [B, ...].
        latent_dim: L, the dimension of z.
        posterior: q(z|x), which owns the heads from features to its parameters; None means `DiagonalNormal()`. This
            and every other part belong to one model.
        prior: p(z); None means `StandardNormal()`.
        likelihood: p(x|z); None means `Normal(scale=1.0)`.
        objective: what is maximised; None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.
        NotImplementedError: the objective needs what the posterior cannot give.

    Reference: Kingma & Welling 2013, Auto-Encoding Variational Bayes; Rezende et al. 2014, Stochastic Backpropagation.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        **keras_kwargs: Any,
    ) -> None:
        super().__init__(objective, **keras_kwargs)
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(network, keras.layers.Layer):
                raise ValueError(f"`{name}` must be a Keras model. Received: {network!r}")
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = checks.positive_integer("latent_dim", latent_dim)
        self.posterior = DiagonalNormal() if posterior is None else posterior
        self.prior = StandardNormal() if prior is None else prior
        self.likelihood = Normal() if likelihood is None else likelihood
        for name, base in (
            ("posterior", Posterior),
            ("prior", Prior),
            ("likelihood", Likelihood),
            ("objective", Objective),
        ):
            if not isinstance(getattr(self, name), base):
                raise ValueError(f"`{name}` must be a {base.__name__}. Received: {getattr(self, name)!r}")
        for name in ("posterior", "prior"):
            part = getattr(self, name)
            if part.latent_dim is None:
                part.latent_dim = self.latent_dim
            elif part.latent_dim != self.latent_dim:
                raise ValueError(
                    f"`{name}` must have the model's latent_dim, {self.latent_dim}, or None and belong to no other "
                    f"model. Received: a {name} with latent_dim={part.latent_dim}"
                )
        if self.prior.support != self.posterior.support:
            raise ValueError(
                f"`prior` must have the support of {type(self.posterior).__name__}, {self.posterior.support}. "
                f"Received: {type(self.prior).__name__}, of which it is {self.prior.support}"
            )
        if self.objective.path_gradient and not self.posterior.has_log_prob:
            raise NotImplementedError(
                "`objective` must take no path gradients (sticking_the_landing, doubly_reparameterized) with "
                f"{type(self.posterior).__name__}, whose log q(z|x) is known at its own draws alone. Received: "
                f"objective={self.objective!r}"
            )
        self.event_shape = None
        input_shape = _input_shape(encoder)
        if input_shape is not None and None not in input_shape[1:]:
            self.build(input_shape)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        event_shape = tuple(input_shape[1:])
        features = self.encoder(keras.KerasTensor((None, *event_shape)))
        if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2 or features.shape[1] is None:
            raise ValueError(
                "`encoder` must give one tensor of features [B, F]; end it with keras.layers.Flatten() where the "
                f"features have more axes. Received: an encoder that gives {_describe(features)}"
            )
        decoder_input = _input_shape(self.decoder)
        if decoder_input is not None and decoder_input[1:] != (self.latent_dim,):
            raise ValueError(
                f"`decoder` must take z of shape [B, {self.latent_dim}], as latent_dim={self.latent_dim} says. "
                f"Received: a decoder whose input has the shape {list(decoder_input)}"
            )
        parameters = self.decoder(keras.KerasTensor((None, self.latent_dim)))
        expected = self.likelihood.parameter_shape(event_shape)
        if not isinstance(parameters, keras.KerasTensor) or tuple(parameters.shape[1:]) != expected:
            raise ValueError(
                f"`decoder` must give one tensor of shape {[None, *expected]}: the parameters that "
                f"{type(self.likelihood).__name__} needs for x of shape {[None, *event_shape]}. Received: a decoder "
                f"that gives {_describe(parameters)}"
            )
        self.prior.connect(self._encode, self.posterior, event_shape)
        for part, shape in (
            (self.posterior, features.shape),
            (self.prior, (None, self.latent_dim)),
            (self.likelihood, parameters.shape),
        ):
            if not part.built:
                part.build(shape)
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z) at the mean, or the `center`, of q(z|x).

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        z = self.posterior.center(self._encode(x, training))
        return self.likelihood.mean(self.decoder(z, training=training))

    def elbo_terms(
        self,
        x: tf.Tensor,
        *,
        num_samples: int,
        seed: tf.Tensor,
        analytic_kl: bool = True,
        path_gradient: bool = False,
        training: bool = False,
    ) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`."""
        return elbo.estimate(
            self._posterior_of(x, training),
            self.prior.distribution(),
            functools.partial(self._log_likelihood, x, training=training),
            num_samples=num_samples,
            seed=seed,
            analytic_kl=analytic_kl,
            path_gradient=path_gradient,
        )

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder and of the posterior."""
        return [*self.encoder.trainable_variables, *self.posterior.trainable_variables]

    def check_data(self, x: np.ndarray) -> None:
        """Builds the model where that is still to be done, and raises ValueError when it cannot have produced x."""
        if self.event_shape is None:
            if x.ndim < 2:
                raise ValueError(f"`x` must have the shape [N, ...]. Received: x of shape {list(x.shape)}")
            with self.distribute_strategy.scope():
                self.build((None, *x.shape[1:]))
        checks.check_shape(x, self.event_shape)
        checks.check_finite(x)
        self.likelihood.check(x)

    def encode(self, x: Any, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Computes the parameters of q(z|x).

        Args:
            x: an array [N, ...] or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The parameters by name: `loc` and `scale`, each [N, L], for `DiagonalNormal`.
        """
        outputs = [self._run(self._encode, batch) for batch in self._checked_batches(x, batch_size)]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def decode(self, z: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            z: an array [N, L].
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        z = checks.to_numpy(z, "z")
        checks.check_shape(z, (self.latent_dim,), "z")
        checks.check_finite(z, "z")
        return np.concatenate([self._run(self._decode, batch).numpy() for batch in inputs.batches(z, batch_size)])

    def reconstruct(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z) at the mean of q(z|x): `predict` without its progress bar.

        Args:
            x: an array [N, ...] or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The reconstruction [N, ...].
        """
        return np.concatenate([self._run(self.call, batch).numpy() for batch in self._checked_batches(x, batch_size)])

    def generate(self, n: int, seed: int | None = None, batch_size: int = 256) -> np.ndarray:
        """Draws z ~ p(z) and computes the mean of p(x|z).

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        n = checks.positive_integer("n", n)
        return self.decode(self.prior.distribution().sample(n, seed=self._seed(seed)), batch_size)

    def log_likelihood(
        self, x: Any, num_samples: int = 1000, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Estimates log p(x) by importance sampling, with q(z|x) as the proposal.

        log p(x) >= E[log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)],  z_k ~ q(z|x), tight as K grows

        Args:
            x: an array [N, ...] or a dataset.
            num_samples: K, the number of draws for each example.
            batch_size: how many examples are computed at a time; memory is bounded whatever K is.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The estimate [N], in nats per example.

        Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8.
        """
        num_samples = checks.positive_integer("num_samples", num_samples)
        seed = self._seed(seed)
        results = []
        chunk = None
        for index, batch in enumerate(self._checked_batches(x, batch_size)):
            # The same for all batches, because each size is a graph of its own.
            chunk = chunk or max(1, min(num_samples, _CHUNK_ELEMENTS // int(tf.size(batch)), _CHUNK_ROWS // len(batch)))
            batch_seed = tf.random.experimental.stateless_fold_in(seed, index)
            total = np.full(len(batch), -np.inf)
            for start in range(0, num_samples, chunk):
                size = min(chunk, num_samples - start)
                chunk_seed = tf.random.experimental.stateless_fold_in(batch_seed, start)
                total = np.logaddexp(total, self._run(self._log_weight_sum, batch, chunk_seed, num_samples=size))
            results.append(total - np.log(num_samples))
        return np.concatenate(results)

    def score(self, x: Any, epsilon: Any = None, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Computes the terms of the bound at one z for each x: a score for anomalies, with no noise of its own.

        Args:
            x: an array [N, ...].
            epsilon: noise from N(0, I) [N, L] that z ~ q(z|x) is made of; None takes the mean, or the
                `center`, of q(z|x).
            batch_size: how many examples are computed at a time.

        Returns:
            `elbo`, `log_likelihood` and `kl`, each [N], in nats per example.
        """
        x = checks.to_numpy(x)
        self.check_data(x)
        if epsilon is None:
            outputs = [self._run(self._score_at_mean, batch) for batch in inputs.batches(x, batch_size)]
        else:
            epsilon = checks.to_numpy(epsilon, "epsilon")
            checks.check_shape(epsilon, (self.latent_dim,), "epsilon")
            checks.check_finite(epsilon, "epsilon")
            checks.check_same_length(x=x, epsilon=epsilon)
            pairs = zip(inputs.batches(x, batch_size), inputs.batches(epsilon, batch_size), strict=True)
            outputs = [self._run(self._score, *pair) for pair in pairs]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def _posterior_of(self, x: tf.Tensor, training: bool = False) -> tfd.Distribution:
        return self.posterior.distribution(self._encode(x, training))

    def _encode(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        return self.posterior(self.encoder(x, training=training))

    def _decode(self, z: tf.Tensor) -> tf.Tensor:
        return self.likelihood.mean(self.decoder(z, training=False))

    def _generate(self, epsilon: tf.Tensor) -> tf.Tensor:
        return self._decode(self.prior.sample_from(epsilon))

    def _score(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        parameters = self._encode(x)
        z, log_posterior = self.posterior.sample_and_log_prob_from(parameters, epsilon)
        terms = elbo.terms_at(
            z[tf.newaxis],
            log_posterior[tf.newaxis],
            self.posterior.distribution(parameters),
            self.prior.distribution(),
            functools.partial(self._log_likelihood, x),
        )
        return {"elbo": terms.elbo, "log_likelihood": terms.log_likelihood[0], "kl": terms.kl}

    def _score_at_mean(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._score(x)

    def _log_likelihood(self, x: tf.Tensor, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The density log p(x|z) [S, B] of z [S, B, L]."""
        # Networks take [B, L]: S is folded into B for the decoder, and unfolded after it.
        parameters = self.decoder(tf.reshape(z, [-1, self.latent_dim]), training=training)
        parameters = tf.reshape(parameters, tf.concat([tf.shape(z)[:2], tf.shape(parameters)[1:]], axis=0))
        return self.likelihood.log_prob(x, parameters)

    def _log_weight_sum(self, x: tf.Tensor, seed: tf.Tensor, num_samples: int) -> tf.Tensor:
        terms = self.elbo_terms(x, num_samples=num_samples, seed=seed)
        return tf.reduce_logsumexp(terms.log_weights, axis=0)

    def _checked_batches(self, x: Any, batch_size: int) -> Iterator[tf.Tensor]:
        """Batches [B, ...] of an array or a dataset, float32, each checked before it is used."""
        if not isinstance(x, tf.data.Dataset):
            x = checks.to_numpy(inputs.unpack(x)[0] if isinstance(x, dict) else x)
            self.check_data(x)
            yield from inputs.batches(x, batch_size)
            return
        batch = None
        for element in x:
            batch = checks.to_numpy(inputs.unpack(element)[0])
            self.check_data(batch)
            yield tf.cast(batch, tf.float32)
        if batch is None:
            raise ValueError(f"`x` must hold at least one batch. Received: {x!r}")

    def _check_built(self, method: str) -> None:
        if self.event_shape is None:
            raise ValueError(
                f"Build the model before `{method}()`: fit it, or call it. Received: a model not yet built"
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        return {**super().get_config(), "latent_dim": self.latent_dim, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The model that `get_config` described, with new weights."""
        parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects) for name in _PARTS}
        return cls(**{**config, **parts})


_PARTS = ("encoder", "decoder", "posterior", "prior", "likelihood", "objective")


def _input_shape(network: keras.Model) -> tuple[int | None, ...] | None:
    """The shape of the one input that a network declares, or None where it declares none."""
    shape = getattr(network, "input_shape", None)
    return shape if isinstance(shape, tuple) else None


def _describe(outputs: Any) -> str:
    """Names what a network gives, for an error message."""
    if isinstance(outputs, keras.KerasTensor):
        return f"a tensor of shape {list(outputs.shape)}"
    if isinstance(outputs, list | tuple | dict):
        return f"a {type(outputs).__name__} of {len(outputs)} outputs"
    return repr(outputs)
