"""Variational inference: an approximation of the posterior of a user's own Bayesian model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo
from tfvae.callbacks import Convergence
from tfvae.inference import observations, prediction
from tfvae.inference.approximation import Approximation
from tfvae.inference.control_variate import ControlVariate
from tfvae.inference.draws import Draws
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.latents import Latent
from tfvae.inference.local_latents import LocalLatents
from tfvae.inference.start import check_start, standard_coordinates
from tfvae.inference.targets import target
from tfvae.models.autoencoder import check_part
from tfvae.models.variational_model import VariationalModel
from tfvae.objectives import ELBO, Objective
from tfvae.posteriors import FullCovarianceNormal, Posterior

tfd = tfp.distributions

_NUM_SAMPLES = 32
_LEARNING_RATE = 0.02
_STEPS_PER_EXECUTION = 10
_STEPS_PER_EPOCH = 100
_MAX_EPOCHS = 1000
_PREDICTIVE_DRAWS = 200
# Draws times rows that are evaluated at a time.
_CHUNK_ELEMENTS = 2**21


@keras.saving.register_keras_serializable("tfvae")
class VariationalInference(VariationalModel):
    """An approximation q(z) of the posterior p(z | data) of a Bayesian model.

    `fit` maximises the ELBO, E_q[log p(data, z) - log q(z)] <= log p(data), and so minimises KL(q(z) || p(z | data)).
    The metrics are in nats for all of the data, not per row: `elbo`; `log_likelihood`, E_q[log p(data | z)]; `kl`,
    KL(q(z) || p(z)). Where a model gives its log joint density in one piece, `log_likelihood` is the mean of that, and
    `kl` the negative entropy of q.

    q is a family over the unconstrained space of the latent variables, which bijectors map to their constraints, in
    coordinates that are standardised before the first step, by a Gaussian near the posterior: see
    `tfvae.inference.newton`. A mean-field family gets the diagonal of its precision; with local latents the coordinates
    are left as they are.

    Args:
        model: a TFP joint distribution whose observations are pinned, `joint.experimental_pin(y=y)`; or a function
            `log_joint(latents, data)` of the latent variables by name, each [S, ...] for S points, and of the data, as
            `fit` was given them. It returns log p(data, latents) [S]; or the pair of log p(latents) [S] and
            log p(data | latents) [S, B], one column for each row, which batches, replicas and local latents need.
        latents: for each name a `tfvae.Latent`, or a shape where there is no constraint; or a joint distribution, the
            prior, whose shapes and supports are taken. None takes those of a pinned joint distribution.
        num_data: N, the number of rows of all of the data, by which batches are scaled; None takes it from arrays.
        posterior: the family of q: `DiagonalNormal()` (mean-field), `FullCovarianceNormal()`, `LowRankNormal()`,
            `CouplingFlow()` or one of your own; None means `FullCovarianceNormal()`.
        objective: what is maximised; None means the ELBO of 32 draws with the gradient of Roeder et al. 2017.
        local: the latent variables that each row has of its own; they come with the others by name, each [S, B, ...].
        predictive: for new data, a function of the latent variables by name, each [S, ...], and of x [B, ...] that
            returns the distribution of what is predicted, with batch shape [S, B]; or None.
        kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: an argument is not what it must be.

    Reference: Kucukelbir et al. 2017, Automatic Differentiation Variational Inference, sections 2.3 to 2.6; Hoffman et
    al. 2013, Stochastic Variational Inference, section 2.4.
    """

    def __init__(
        self,
        model: Any,
        latents: Mapping[str, Latent | Sequence[int]] | tfd.JointDistribution | None = None,
        num_data: int | None = None,
        posterior: Posterior | None = None,
        objective: Objective | None = None,
        local: LocalLatents | None = None,
        predictive: Callable[[dict[str, tf.Tensor], Any], tfd.Distribution] | None = None,
        **kwargs: Any,
    ) -> None:
        if objective is None:
            objective = ELBO(num_samples=_NUM_SAMPLES, sticking_the_landing=True)
        super().__init__(objective, **kwargs)
        # Past Keras, which would look into these.
        given = {"model": model, "latents": latents, "local": local, "predictive": predictive}
        self.__dict__.update(_joint=JointDensity(target(model, latents), local), _given=given, _data=None)
        self.num_data = None if num_data is None else checks.positive_integer("num_data", num_data)
        self.space = self._joint.target.space
        self.posterior = FullCovarianceNormal() if posterior is None else posterior
        self.local = local
        self.predictive = predictive
        check_part("posterior", self.posterior, Posterior)
        check_part("objective", self.objective, Objective)
        if local is not None and (
            not isinstance(local, LocalLatents) or set(local.space.names) & set(self.space.names)
        ):
            raise ValueError(
                f"`local` must be a tfvae.LocalLatents, with other names than {list(self.space.names)}. Received: "
                f"{local if not isinstance(local, LocalLatents) else list(local.space.names)}"
            )
        if not (predictive is None or callable(predictive)):
            raise ValueError(f"`predictive` must be a function. Received: {predictive!r}")
        self.approximation = Approximation(self.posterior, self.space.dim)
        self.control_variate = ControlVariate(self.space.dim)
        self.__dict__["_controlled"] = False
        self.built = True

    def elbo_terms(self, x: Any, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound for all of the data, in nats, the same in each column.

        Args:
            x: the data of B rows.
            sampling: how z is drawn; the KL divergence has no closed form here.
        """
        seeds = tf.random.experimental.stateless_split(sampling.seed, 2)
        z, log_posterior = self.approximation.draw(sampling.num_samples, seeds[0], sampling.path)
        log_prior, log_likelihood, log_local = self._joint.log_densities(
            z, x, num_data=self.num_data, seed=seeds[1], path=sampling.path, training=sampling.training
        )
        if sampling.training and self._controlled:
            log_likelihood += self.control_variate.correction(
                z, lambda point: self._joint.log_densities(point, x, num_data=self.num_data)[1]
            )
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        terms = (log_likelihood, log_prior, log_posterior + log_local)
        # A column for each row, so that sums over rows and replicas weigh the batch by its size.
        columns = [tf.repeat(term[:, tf.newaxis], rows, axis=1) for term in terms]
        kl = tf.reduce_mean(columns[2] - columns[1], axis=0)
        return elbo.ElboTerms(columns[0], columns[1], columns[2], kl)

    def _gradients(self, batch: Any) -> tuple[list[Any], dict[str, tf.Tensor]]:
        """As in `VariationalModel`, or zeros, and a loss of NaN, where a draw far in a tail makes one overflow."""
        gradients, values = super()._gradients(batch)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in gradients if each is not None])
        values = {**values, "loss": tf.where(finite, values["loss"], math.nan)}
        return [None if each is None else tf.where(finite, each, 0.0) for each in gradients], values

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """The data of one element of what `fit` is given; see `VariationalModel.unpack`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` must be None: weights are part of the model's log-likelihood. Received: "
                f"sample_weight of type {type(sample_weight).__name__}"
            )
        return (x if y is None else (x, y)), None

    def cast(self, x: tf.Tensor) -> tf.Tensor:
        """A tensor of the data as a log joint density takes it: float32, or integers as they are."""
        return observations.cast(x)

    def check_data(self, x: Any) -> None:
        """Raises ValueError when the data are no rows of finite numbers."""
        observations.check_rows(x)
        for array in tf.nest.flatten(x):
            checks.check_finite(array)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        callbacks: list[keras.callbacks.Callback] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Fits q: `keras.Model.fit`, after the coordinates are standardised.

        A model that is not compiled is compiled with Adam. An epoch has 100 steps where all of the data are taken at
        once, or `epochs` is None. Batches are corrected by what all of the data say at one point, for which these are
        passed over a few times before: see `tfvae.inference.control_variate`. The data are kept for `draw`, by
        reference.

        Args:
            x: the data, as the log joint density takes them: an array, a dictionary or a tuple of arrays with N rows,
                or a `tf.data.Dataset` of batches of such; None where the model has its data.
            y: with y the data are the tuple (x, y).
            batch_size: B; None takes all rows up to 4096, and 1024 of more.
            epochs: None goes on until q has converged: see `tfvae.callbacks.Convergence`.
            callbacks: as for `keras.Model.fit`.
            kwargs: the further arguments of `keras.Model.fit`.

        Returns:
            The history.

        Raises:
            ValueError: the data, or the density at the start, are not what they must be.
        """
        observations.check_unused(kwargs)
        data = self._read(x, y, batch_size)
        if not data.whole and not isinstance(self.objective, ELBO):
            raise ValueError(
                "`objective` must be an ELBO where the data come in batches: others are no bound there. Received: "
                f"objective={self.objective!r}"
            )
        if not self.compiled:
            with self.distribute_strategy.scope():
                self.compile(keras.optimizers.Adam(_LEARNING_RATE), steps_per_execution=_STEPS_PER_EXECUTION)
        self._standardize(data)
        dataset = data.dataset.repeat(_STEPS_PER_EPOCH) if data.whole else data.dataset
        automatic = epochs is None
        if automatic:
            epochs = _MAX_EPOCHS
            callbacks = Convergence.added_to(callbacks)
            if not data.whole:  # A pass over large data is too long to look for convergence after.
                dataset = dataset.repeat()
                kwargs.setdefault("steps_per_epoch", _STEPS_PER_EPOCH)
        history = super().fit(dataset, epochs=epochs, callbacks=callbacks, **kwargs)
        self.__dict__["_data"] = (x, y)
        if automatic and data.whole:
            self.draw()  # for its warning
        return history

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Estimates the metrics: `keras.Model.evaluate`. `draw` gives the ELBO with its standard error.

        Args:
            x: as for `fit`, as are y and batch_size.
            y: see x.
            batch_size: see x.
            kwargs: the further arguments of `keras.Model.evaluate`.
        """
        return super().evaluate(self._read(x, y, batch_size).dataset, **kwargs)

    def draw(
        self,
        num_samples: int = 2000,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> Draws:
        """Draws latent variables from q, with their importance weights.

        Args:
            num_samples: S.
            x: all of the data, as for `fit`, as are y and batch_size; None takes those that `fit` was given last.
            y: see x.
            batch_size: see x.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The draws. A warning is given where their k-hat is above 0.7.

        Raises:
            ValueError: these are not all of the data.
        """
        num_samples = checks.positive_integer("num_samples", num_samples)
        if x is None and self._data is not None:
            x, y = self._data
        if x is None and self.num_data:
            raise ValueError("`x` must be given: a file holds no data. Received: x=None")
        data = self._read(x, y, batch_size)
        seed = self._seed(seed)
        z, log_q = self.approximation.sample(num_samples, seed)
        log_weights = self._log_joint(z, data, seed) - log_q.numpy()
        latents = {name: value.numpy() for name, value in self._run(self.space.constrain, z)[0].items()}
        draws = Draws(latents, log_weights)
        draws.warn_where_far()
        return draws

    def posterior_predictive(self, x: Any = None, num_samples: int = 1000, *, seed: int | None = None) -> Any:
        """Draws data from the model at draws of q.

        Args:
            x: new data [N, ...], as `predictive` takes them; None for a pinned joint distribution.
            num_samples: S.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            Draws of what `predictive` predicts, [S, N, ...]; of a pinned joint distribution, those of what was pinned,
            by name, each [S, ...].
        """
        seeds = tf.random.experimental.stateless_split(self._seed(seed), 2)
        num_samples = checks.positive_integer("num_samples", num_samples)
        z, _ = self.approximation.sample(num_samples, seeds[0])
        latents, _ = self._run(self.space.constrain, z)
        return prediction.draws(self._given["model"], self.predictive, latents, x, seeds[1])

    def call(self, x: Any, training: bool = False) -> tf.Tensor:
        """The mean of the posterior predictive distribution [B, ...], over 200 draws of q that are always the same.

        Args:
            x: new data [B, ...], as `predictive` takes them.
            training: has no effect.
        """
        return self.predict_moments(x)["mean"]

    def predict_moments(self, x: Any) -> dict[str, tf.Tensor]:
        """The `mean` and the `stddev` [B, ...] of the posterior predictive distribution, as in `call`.

        Args:
            x: new data [B, ...], as `predictive` takes them.
        """
        z, _ = self.approximation.draw(_PREDICTIVE_DRAWS, tf.constant([0, 0]))
        return prediction.moments(self.predictive, self.space.constrain(z)[0], x)

    def _read(self, x: Any, y: Any, batch_size: int | None) -> observations.Observations:
        """The data as a dataset, once its first batch and the density there have been looked at."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        known = {"num_data": self.num_data, "replicas": replicas, "seed": self._progress.get_seed}
        if x is not None and self._joint.target.has_data:
            raise ValueError(f"`x` must be None where the data are pinned. Received: x of type {type(x).__name__}")
        data = observations.read(x, y, batch_size=batch_size, **known)
        first = observations.first_rows(data.dataset, 1)
        if not observations.is_none(first):
            self.check_data(tf.nest.map_structure(np.asarray, first))
        self._joint.check(first, whole=data.whole, replicas=replicas)
        self.num_data = data.num_data
        return data

    def _standardize(self, data: observations.Observations) -> None:
        """Standardises the coordinates where that is still to be done, and takes the sums that correct batches."""
        if self.local is not None:
            check_start(self._joint, data, self.noise_seed % 2**31)
            return
        evaluate = self._joint.of_all_rows(data)
        if keras.ops.convert_to_numpy(self.approximation.standardized) == 0.0:
            seed = self.noise_seed % 2**31
            self.approximation.set_coordinates(standard_coordinates(self._joint, data, evaluate, seed))
        # Of these data, whatever an earlier fit was given.
        if self._controlled == data.whole:
            self.__dict__["_controlled"] = not data.whole
            self.train_function = None
        if not data.whole:
            self.control_variate.set(evaluate(keras.ops.convert_to_numpy(self.approximation.loc).astype(float)))

    def _log_joint(self, z: tf.Tensor, data: observations.Observations, seed: tf.Tensor) -> np.ndarray:
        """Evaluates log p(data, z) [S] of z [S, L], a part of the rows and of the draws at a time."""
        total = np.zeros(len(z))
        for index, batch in enumerate(observations.one_pass(data)):
            batch_seed = tf.random.experimental.stateless_fold_in(seed, index)
            size = max(1, _CHUNK_ELEMENTS // len(tf.nest.flatten(batch)[0]))
            for start in range(0, len(z), size):
                part = slice(start, start + size)
                part_seed = tf.random.experimental.stateless_fold_in(batch_seed, start)
                log_prior, log_rows = self._run(self._log_rows, z[part], batch, part_seed)
                total[part] += log_rows if index else log_prior + log_rows
        return total

    def _log_rows(self, z: tf.Tensor, x: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates log p(z) [S], and log p(x | z) [S] of these rows alone, less log q of their local latents."""
        log_prior, log_likelihood, log_local = self._joint.log_densities(z, x, num_data=None, seed=seed)
        return log_prior, log_likelihood - log_local

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved.

        Raises:
            ValueError: it is of another model, or the local latents have no weights yet to be loaded.
        """
        if self.local is not None and not self.local.built:
            raise ValueError(
                "`local` must have an encoder that knows the shape of its input, from keras.Input, where weights are "
                f"loaded. Received: {self.local.encoder!r}"
            )
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that can be stored, and the names of those that are the user's own code."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("posterior", "objective")}
        own = [name for name, value in self._given.items() if value is not None]
        return {**super().get_config(), "num_data": self.num_data, **parts, "own": own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The model that `get_config` described, with new weights.

        A file holds q, not the Bayesian model: `keras.saving.load_model(path, custom_objects={"model": model, ...})`
        must be given that, under the names of the constructor's arguments.
        """
        config = dict(config)
        own = {name: keras.saving.get_registered_object(name, custom_objects) for name in config.pop("own")}
        missing = [name for name, value in own.items() if value is None]
        if missing:
            raise ValueError(
                f"`custom_objects` must hold {missing}, which a file cannot: load_model(path, custom_objects="
                f"{{{missing[0]!r}: ...}}). Received: nothing under these names"
            )
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("posterior", "objective")}
        return cls(**{**config, **parts, **own})
