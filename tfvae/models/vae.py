"""The variational autoencoder: an encoder amortises the posterior, and a decoder computes the likelihood."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo
from tfvae.data.schema import is_rows
from tfvae.data.series import Series
from tfvae.data.table import Table
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder, completion, critics, parts, rows, windows
from tfvae.models.table_export import TableExport
from tfvae.objectives import Objective
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.priors import Prior, StandardNormal

tfd = tfp.distributions

# How many draws of z are weighted to generate rows of which some values are given.
_DRAWS_GIVEN = 10_000


@keras.saving.register_keras_serializable("tfvae")
class VAE(TableExport, autoencoder.Autoencoder):
    """A variational autoencoder.

    q(z|x) = posterior(encoder(x)),  p(x|z) = likelihood(decoder(z)),  p(z) = prior

    `model(x)` and `predict` return the reconstruction: the mean of p(x|z) at the mean of q(z|x). The model is built by
    the constructor if the encoder declares its input shape, and otherwise when it first sees data.

    Args:
        encoder: a Keras model from x [B, ...] to features [B, F].
        decoder: a Keras model from z [B, L] to the likelihood's parameters [B, ...], such as logits, which
            may be any real numbers: so its last layer has no activation, unless it gives a location that is bounded as
            x is.
        latent_dim: L, the dimension of z.
        posterior: q(z|x), which owns the layers that compute its parameters from the features; None means
            `DiagonalNormal()`. Neither this part nor any other may be shared between models.
        prior: p(z); None means `StandardNormal()`.
        likelihood: p(x|z); None means `Normal(scale=1.0)`.
        objective: what is maximised; None means `ELBO()`.
        table: what the columns of a table are, if the data are its rows; `of_table` makes such a model. Its methods and
            exports then take data frames, and `generate` gives one. Arrays are taken for x, as the table makes it.
        series: what the channels and steps of time series are, if the data are windows of them, as
            `tfvae.data.windows(...).series` says. It is kept in the file of the model and in its exports, which scale
            raw windows by it.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.

    Reference: Kingma & Welling 2013, Auto-Encoding Variational Bayes; Rezende et al. 2014, Stochastic Backpropagation.
    """

    _PARTS: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "posterior", "prior", "likelihood", "objective")
    _draws_z = True
    # Further inputs of the networks, with their shape for one example: none, or the condition of a conditional model.
    _condition_shapes: ClassVar[dict[str, tuple[int, ...]]] = {}
    _prior_kinds: ClassVar[tuple[type, ...]] = (Prior,)
    # Whether p(x|z) is of x alone, and its elements are independent given z, so that z completes an x with gaps.
    completes: ClassVar[bool] = True

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        table: Table | None = None,
        series: Series | None = None,
        **keras_kwargs: Any,
    ) -> None:
        super().__init__(objective, **keras_kwargs)
        self.encoder = parts.checked_network("encoder", encoder)
        self.decoder = parts.checked_network("decoder", decoder)
        self.latent_dim = checks.positive_integer("latent_dim", latent_dim)
        self.posterior = parts.checked_part("posterior", posterior, Posterior, default=DiagonalNormal)
        self.prior = parts.checked_part("prior", prior, *self._prior_kinds, default=StandardNormal)
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        self.table = None if table is None else rows.checked_table(table, self.likelihood)
        self.takes_units = self.table is None
        self.series = None if series is None else windows.checked_series(series)
        if self.series is not None:
            self.own_units = self.series.offset, self.series.scale
            self.export_tags = (*self.export_tags, "time-series")
            self._meaning_of_x = windows.meaning(self.series)
        parts.set_latent_dim("posterior", self.posterior, self.latent_dim)
        parts.set_latent_dim("prior", self.prior, self.latent_dim)
        parts.check_densities(self.posterior, self.prior, self.objective)
        self._build_where_known(encoder)

    @classmethod
    def of_table(
        cls,
        table: Table,
        latent_dim: int = 8,
        hidden: Sequence[int] = (256, 128),
        activation: str = "silu",
        likelihood: Likelihood | None = None,
        **arguments: Any,
    ) -> Self:
        """Makes a model of the rows of a table, with dense networks.

        Args:
            table: what the columns are, from `tfvae.data.Table.learn`.
            latent_dim: L, the dimension of z.
            hidden: the widths of the encoder's dense layers; the decoder mirrors them.
            activation: the networks' activation function.
            likelihood: p(x|z); None means `table.likelihood()`.
            arguments: the other arguments of the constructor.

        Raises:
            ValueError: an argument is out of its range.
        """
        likelihood = table.likelihood() if likelihood is None else likelihood
        rows.checked_table(table, likelihood)
        encoder, decoder = rows.make_networks(table, likelihood, latent_dim, tuple(hidden), activation)
        return cls(encoder, decoder, latent_dim, likelihood=likelihood, table=table, **arguments)

    def of_rows(self, data: Any) -> Any:
        """Converts rows to x, if the model is of a table and the data are rows: see `CheckingModel`."""
        return data if self.table is None or not is_rows(data) else self.table.transform(data)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        event_shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        if self.series is not None:
            windows.check_shape(self.series, event_shape)
        conditions = [keras.KerasTensor((None, *shape)) for shape in self._condition_shapes.values()]
        given = parts.input_shapes(self.encoder)
        if not conditions and given is not None and len(given) > 1:
            raise ValueError(
                "`encoder` must take x as one array: join several kinds of columns with np.concatenate(..., axis=-1), "
                "and give each kind its likelihood with tfvae.likelihoods.Columns. Received: an encoder whose inputs "
                f"have the shapes {[list(shape) for shape in given]}"
            )
        x = _joined(keras.KerasTensor((None, *event_shape)), *conditions)
        features = parts.features_of("encoder", self.encoder, x)
        declared = parts.input_shapes(self.decoder)
        expected = [(self.latent_dim,), *self._condition_shapes.values()]
        if declared is not None and [tuple(shape[1:]) for shape in declared] != expected:
            shapes = [list(shape) for shape in declared]
            also = "".join(f" and {name} [B, {shape[0]}]" for name, shape in self._condition_shapes.items())
            raise ValueError(
                f"`decoder` must take z of shape [B, {self.latent_dim}]{also}, as latent_dim={self.latent_dim} says. "
                f"Received: a decoder whose input has the shape {shapes[0] if len(shapes) == 1 else shapes}"
            )
        z = keras.KerasTensor((None, self.latent_dim))
        parameters = parts.likelihood_parameters_of(
            "decoder", self.decoder, _joined(z, *conditions), self.likelihood, event_shape
        )
        self._connect_prior(event_shape)
        for part, shape in (
            (self.posterior, features.shape),
            (self.prior, (None, self.latent_dim)),
            (self.likelihood, parameters.shape),
        ):
            parts.build(part, shape)
        critics.build(self, self.latent_dim)
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z) at the mean, or the `center`, of q(z|x).

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        x = self._completed(x)
        z = self.posterior.center(self._encode(x, training))
        return self.likelihood.mean(self.decoder(_joined(z, *self._split(x)[1]), training=training))

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`."""
        return elbo.estimate(
            self._posterior_of(x, sampling.training),
            self._prior_given(*self._split(x)[1], training=sampling.training),
            functools.partial(self._log_likelihood, x, training=sampling.training, target=sampling.target),
            sampling,
        )

    def decode(self, z: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            z: an array [N, L].
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        return self._decoded(self._checked_noise("z", z, self.latent_dim), batch_size=batch_size)

    def generate(
        self,
        n: int,
        seed: int | None = None,
        batch_size: int = 256,
        sample: bool = False,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draws z ~ p(z) and computes the mean of p(x|z).

        Means show what the model has learned without noise, as for pictures. Synthetic data need draws, `sample=True`.

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.
            given: with `sample`, for a model of a table: the values of some columns by name, given which the others are
                drawn, as `tfvae.impute` draws missing values.

        Returns:
            The generated examples [n, ...]; of a model of a table a `pandas.DataFrame` of n rows.
        """
        self._check_built("generate")
        n = checks.positive_integer("n", n)
        if given is not None:
            return self._generated_given(n, given, sample, seed)
        state = self._seed(seed)
        z = self.prior.distribution().sample(n, seed=state).numpy()
        x = self._generated(z, batch_size=batch_size, sample=sample, seed=state)
        return x if self.table is None else self._rows(x if sample else self.likelihood.to_data(x), state)

    def reconstruct(self, x: Any, batch_size: int = 256, sample: bool = False, seed: int | None = None) -> Any:
        """Computes the mean of p(x|z) at the mean of q(z|x): see `Autoencoder`.

        For rows of a table the result is a `pandas.DataFrame` of the values that the model takes them for.
        """
        made = super().reconstruct(x, batch_size, sample, seed)
        if self.table is None or not is_rows(x):
            return made
        return self._rows(made if sample else self.likelihood.to_data(made), self._seed(seed))

    def _rows(self, x: np.ndarray, seed: tf.Tensor) -> Any:
        """The rows of the table that x [N, D] stands for."""
        assert self.table is not None
        return self.table.rows(x, np.asarray(seed).astype(np.uint32))

    def _generated_given(self, n: int, given: Mapping[str, Any], sample: bool, seed: int | None) -> Any:
        if self.table is None or not sample:
            raise ValueError(
                "`given` needs `sample=True` and a model of a table, as VAE.of_table makes it. Received: "
                f"given={checks.shown(given)}, sample={sample}"
            )
        x = rows.given_x(self.table, given)
        self.check_data(x)
        self.check_defined("elbo", "`given` weighs draws of z, which")
        state = self._seed(seed)
        weights = completion.Weights()
        drawn = completion.draws(self, tf.constant(x), _DRAWS_GIVEN, n, state, weights)[:, 0]
        made = self._rows(np.where(np.isnan(x), drawn, x), state)
        for name, value in given.items():
            made[name] = type(made)({name: [value] * n})[name].astype(made[name].dtype)
        return made

    def likelihood_parameters(self, z: tf.Tensor, *conditions: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The parameters of p(x|z) [S, B, ...]: the output of the decoder.

        Args:
            z: the latent variables [S, B, L].
            conditions: the further inputs of the decoder, each [B, C].
            training: whether layers such as dropout behave as in training.
        """
        tiled = [tf.tile(condition, [tf.shape(z)[0], 1]) for condition in conditions]
        # Networks take [B, L]: S is folded into B for the decoder, and unfolded after it.
        parameters = self.decoder(_joined(tf.reshape(z, [-1, self.latent_dim]), *tiled), training=training)
        return tf.reshape(parameters, tf.concat([tf.shape(z)[:2], tf.shape(parameters)[1:]], axis=0))

    def inference_parts(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        """The encoder and the posterior, which together compute q(z|x)."""
        return [(self.encoder, self.posterior)]

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder and of the posterior."""
        return [*self.encoder.trainable_variables, *self.posterior.trainable_variables]

    def _completed(self, x: Any) -> Any:
        """Adds to the data whatever the networks take that must be inferred from x, such as a label, only once."""
        return x

    def _split(self, x: Any) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Splits data into x, whose likelihood is computed, and further inputs of the networks; inverts `_together`."""
        return x, ()

    @property
    def _z_dim(self) -> int:
        return self.latent_dim

    @property
    def _epsilon_dim(self) -> int:
        return self.latent_dim + self._prior_noise_dim

    @property
    def _prior_noise_dim(self) -> int:
        """How many of the columns of epsilon, the last ones, are noise of the prior's own."""
        return self.prior.noise_dim if isinstance(self.prior, Prior) else 0

    def _noise_of_z(self, epsilon: tf.Tensor | None) -> tf.Tensor | None:
        return epsilon if epsilon is None or not self._prior_noise_dim else epsilon[:, : self.latent_dim]

    @property
    def _description(self) -> dict[str, Any]:
        kinds = {name: type(getattr(self, name)).__name__ for name in ("posterior", "prior", "likelihood")}
        return {"latent_dim": self.latent_dim, **kinds}

    def _connect_prior(self, event_shape: tuple[int, ...]) -> None:
        """Gives the prior, before it is built, the encoder and the posterior: a `VampPrior` is made of them."""
        self.prior.connect(self._encode, self.posterior, event_shape)

    def _prior_given(self, *conditions: tf.Tensor, training: bool = False) -> tfd.Distribution:
        return self.prior.distribution()

    def _posterior_of(self, x: tf.Tensor, training: bool = False) -> tfd.Distribution:
        return self.posterior.distribution(self._encode(x, training))

    def _encode(self, x: Any, training: bool = False) -> dict[str, tf.Tensor]:
        event, conditions = self._split(x)
        given = _joined(self.likelihood.encoder_input(event), *conditions)
        return self.posterior(self.encoder(given, training=training))

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return "decoder", self.decoder

    def _parameters_of_x(self, z: tf.Tensor, *conditions: tf.Tensor) -> tf.Tensor:
        return self.decoder(_joined(z, *conditions), training=False)

    def _from_posterior(self, x: Any, epsilon: tf.Tensor) -> tf.Tensor:
        return self.posterior.sample_from(self._encode(x), self._noise_of_z(epsilon))

    def _from_prior(self, epsilon: tf.Tensor, *conditions: tf.Tensor) -> tf.Tensor:
        return self.prior.sample_from(epsilon)

    def _scored(self, x: Any, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        x = self._completed(x)
        event, conditions = self._split(x)
        encoded = self._encode(x)
        z, log_posterior = self.posterior.sample_and_log_prob_from(encoded, self._noise_of_z(epsilon))
        prior = self._prior_given(*conditions)
        if self._prior_noise_dim:
            shape = [tf.shape(z)[0], self._prior_noise_dim]
            prior = self.prior.distribution_from(tf.zeros(shape) if epsilon is None else epsilon[:, self.latent_dim :])
        parameters = self.decoder(_joined(z, *conditions), training=False)
        terms = elbo.terms_at(
            # Not `[tf.newaxis]`, which is one more op of a device.
            tf.expand_dims(z, 0),
            None if log_posterior is None else tf.expand_dims(log_posterior, 0),
            self.posterior.distribution(encoded),
            prior,
            # The argument is the z above, and the decoder's output for it is returned too, so it is computed once. It
            # has no axis of samples, because with one, images would have five axes, of which GPUs of devices take four.
            lambda _: tf.expand_dims(self.likelihood.log_prob(event, parameters), 0),
        )
        return self._scores(terms), parameters

    def _log_likelihood(
        self, x: Any, z: tf.Tensor, training: bool = False, target: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The density log p(x|z) [S, B] of z [S, B, L]; with a target, which is in the place of x, log p(target|z)."""
        event, conditions = self._split(x)
        parameters = self.likelihood_parameters(z, *conditions, training=training)
        return self.likelihood.log_prob(event if target is None else target, parameters, training=training)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        table = {} if self.table is None else {"table": self.table.get_config()}
        series = {} if self.series is None else {"series": self.series.get_config()}
        return {**super().get_config(), "latent_dim": self.latent_dim, **table, **series}

    def export_description(self) -> dict[str, Any]:
        """The description of the export: see `AutoencoderExport`. Windows of series have what makes them of series."""
        series: dict[str, Any] = {} if self.series is None else {"series": self.series.get_config()}
        if self.decision is not None and self.decision.of_steps is not None:
            series["decision_of_steps"] = self.decision.of_steps.to_dict()
        return {**super().export_description(), **series}


def _joined(first: Any, *others: Any) -> Any:
    """The input of a network: one tensor, or a list of several."""
    return [first, *others] if others else first
