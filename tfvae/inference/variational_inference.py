"""`VariationalInference`, the Keras model that approximates the posterior of a user's own Bayesian model."""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, chunks, elbo, seeds
from tfvae.inference import annealing, modes, observations
from tfvae.inference.approximation import Approximation
from tfvae.inference.arviz_groups import ArvizExport
from tfvae.inference.check import checked
from tfvae.inference.control_variate import ControlVariate
from tfvae.inference.convergence import MAX_EPOCHS, STEPS_PER_EPOCH, STEPS_PER_ITERATE
from tfvae.inference.draws import Draws
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.latents import Latent
from tfvae.inference.local_latents import LocalLatents
from tfvae.inference.prediction import Prediction
from tfvae.inference.refine import Refinement
from tfvae.inference.signatures import PosteriorExport
from tfvae.inference.start import Start, check_start, standardize
from tfvae.inference.structured_normal import default_family
from tfvae.inference.targets import target
from tfvae.models import parts
from tfvae.models.variational_model import VariationalModel
from tfvae.objectives import ELBO, Objective
from tfvae.posteriors import Posterior
from tfvae.training.batch import Batch

tfd = tfp.distributions

# The most draws times rows that `draw` evaluates at a time.
_CHUNK_ELEMENTS = 2**21


@keras.saving.register_keras_serializable("tfvae")
class VariationalInference(ArvizExport, Prediction, PosteriorExport, Refinement, VariationalModel):
    """An approximation q(z) of the posterior p(z | data) of a Bayesian model.

    `fit` maximises the ELBO, E_q[log p(data, z) - log q(z)] <= log p(data), and so minimises KL(q(z) || p(z | data)).
    The metrics are in nats for all of the data, not per row: `elbo`; `reconstruction_log_likelihood`,
    E_q[log p(data | z)]; `kl`, KL(q(z) || p(z)). If the model gives only its log joint density,
    `reconstruction_log_likelihood` is the mean of that, and `kl` is the negative entropy of q.

    q is a family of distributions over the unconstrained space of the latent variables, which bijectors map to the
    constrained one. Its coordinates are standardised before the first step, by a Gaussian near the posterior: see
    `tfvae.inference.newton`. A mean-field family gets the diagonal of the Gaussian's precision; with `local` the
    coordinates are not standardised.

    Args:
        model: a TFP joint distribution whose observations are pinned, `joint.experimental_pin(y=y)`; or a function
            `log_joint(latents, data)` of the latent variables by name, each [S, ...] for S points, and of the data in
            the form given to `fit`. It returns log p(data, latents) [S]; or the pair of log p(latents) [S] and
            log p(data | latents) [S, B], one column for each row, which is needed for batches, replicas and `local`.
        latents: for each name a `tfvae.Latent`, or a shape if there is no constraint; or a joint distribution, the
            prior, which gives the shapes and supports. None takes those of a pinned joint distribution.
        num_data: N, the number of rows of all of the data, to which batches are scaled; None takes it from arrays.
        posterior: the family of q: `DiagonalNormal()` (mean-field), `FullCovarianceNormal()`, `LowRankNormal()`,
            `CouplingFlow()` or one of your own; None means `FullCovarianceNormal()`, or `StructuredNormal()` if L is
            above 20 and there are no `local` variables.
        objective: what is maximised; None means the ELBO of 32 draws, 64 for a flow (gradient of Roeder et al. 2017).
        local: the latent variables that each row has of its own; `model` gets them by name too, each [S, B, ...].
        predictive: a function of the latent variables by name, each [S, ...], and of new data x [B, ...] that returns
            the distribution of the predicted quantity, with batch shape [S, B]; or None.
        kwargs: the arguments of `keras.Model`. With `dtype="float64"` the latent variables and the data are float64,
            for posteriors that float32 cannot resolve; the family of q stays in float32, in standard coordinates.

    Raises:
        ValueError: an argument has the wrong type or is out of its range, or the arguments do not fit together.

    Reference: Kucukelbir et al. 2017, Automatic Differentiation Variational Inference, sections 2.3 to 2.6; Hoffman et
    al. 2013, Stochastic Variational Inference, section 2.4.
    """

    _saved = ("posterior", "objective")

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
        if isinstance(kwargs.get("dtype"), str) and kwargs["dtype"] not in ("float32", "float64"):
            raise ValueError(f'`dtype` must be "float32" or "float64". Received: dtype={kwargs["dtype"]!r}')
        if objective is None:
            objective = ELBO(num_samples=annealing.num_samples(posterior), sticking_the_landing=True)
        super().__init__(objective, **kwargs)
        parts.refuse_draws(self)
        # Set past Keras's `__setattr__`, which would track the layers and variables inside of these.
        given = {"model": model, "latents": latents, "local": local, "predictive": predictive}
        dtype = tf.float64 if self.compute_dtype == "float64" else tf.float32
        joint = JointDensity(target(model, latents, dtype), local, dtype)
        self.__dict__.update(_joint=joint, _given=given, _data=None)
        self.num_data = None if num_data is None else checks.positive_integer("num_data", num_data, maximum=2**63 - 1)
        self.space = self._joint.target.space
        default = default_family(posterior, self.space.dim, local)
        self.posterior = parts.checked_part("posterior", posterior, Posterior, default=default)
        self.local = local
        self.predictive = predictive
        if local is not None and (
            not isinstance(local, LocalLatents) or set(local.space.names) & set(self.space.names)
        ):
            raise ValueError(
                f"`local` must be a tfvae.LocalLatents, with other names than {list(self.space.names)}. Received: "
                f"{checks.shown(local if not isinstance(local, LocalLatents) else list(local.space.names))}"
            )
        if local is not None and dtype == tf.float64:
            raise ValueError(
                '`local` must be None with dtype="float64": its encoder computes in float32. Received: both'
            )
        if not (predictive is None or callable(predictive)):
            raise ValueError(f"`predictive` must be a function. Received: {checks.shown(predictive)}")
        self.approximation = Approximation(self.posterior, self.space.dim, dtype=dtype.name)
        self.control_variate = ControlVariate(self.space.dim, dtype=dtype.name)
        self.__dict__["_controlled"] = False
        self.built = True

    def elbo_terms(self, x: Any, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound for all of the data, in nats, repeated in one column for each row.

        Args:
            x: the data of B rows.
            sampling: how z is drawn; the KL divergence has no closed form here.
        """
        seed, local_seed = tf.unstack(tf.random.experimental.stateless_split(sampling.seed, 2))
        z, log_posterior = self.approximation.draw(sampling.num_samples, seed, sampling.path)
        log_prior, log_likelihood, log_local = self._joint.log_densities(
            z, x, num_data=self.num_data, seed=local_seed, path=sampling.path, training=sampling.training
        )
        if sampling.training and self._controlled:
            log_likelihood += self.control_variate.correction(
                z, lambda point: self._joint.log_densities(point, x, num_data=self.num_data)[1]
            )
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        terms = (log_likelihood, log_prior, log_posterior + log_local)
        # One column for each row, so that means over rows and replicas weight a batch by its size.
        columns = [tf.repeat(tf.cast(term, tf.float32)[:, tf.newaxis], rows, axis=1) for term in terms]
        kl = tf.reduce_mean(columns[2] - columns[1], axis=0)
        return elbo.ElboTerms(columns[0], columns[1], columns[2], kl)

    def batch_gradients(self, batch: Batch) -> tuple[list[list[Any]], dict[str, tf.Tensor]]:
        """As in `VariationalModel`; but if a draw far in a tail makes a gradient overflow, zeros and a loss of NaN."""
        gradients, values = super().batch_gradients(batch)
        present = [each for each in tf.nest.flatten(gradients) if each is not None]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in present])
        values = {**values, "loss": tf.where(finite, values["loss"], math.nan)}
        kept = tf.nest.map_structure(lambda each: None if each is None else tf.where(finite, each, 0.0), gradients)
        return kept, values

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Finds the data in one element of the dataset given to `fit`: see `VariationalModel.unpack`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` must be None: sample weights belong in the model's log-likelihood. Received: "
                f"sample_weight of type {type(sample_weight).__name__}"
            )
        return (x if y is None else (x, y)), None

    def cast(self, x: tf.Tensor) -> tf.Tensor:
        """Converts data to the tensors that `model` takes: floats get the model's dtype, integers stay as they are."""
        return observations.cast(x, self._joint.dtype)

    def check_data(self, x: Any) -> None:
        """Raises ValueError unless the data are rows of finite numbers."""
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
        """Fits q with `keras.Model.fit`, after standardising the coordinates.

        A model that is not compiled is compiled with Adam. An epoch is 100 steps if each step takes all of the data, or
        if `epochs` is None. With batches, a few passes over the data before the first step find one point at which the
        log-likelihood of all rows is known, and a control variate based on it corrects each batch: see
        `tfvae.inference.control_variate`. The model keeps a reference to the data, for `draw`.

        Args:
            x: the data in the form that `model` takes: an array, or a dictionary or tuple of arrays with N rows; a
                `tf.data.Dataset` of batches of such; or None if `model` contains its own data.
            y: if given, the data are the tuple (x, y).
            batch_size: B; None takes all rows if there are at most 4096, and 1024 otherwise.
            epochs: None continues until q has converged: see `tfvae.callbacks.Convergence`; or, for a flow, for the
                epochs of `tfvae.callbacks.Annealing`.
            callbacks: as for `keras.Model.fit`.
            kwargs: the other arguments of `keras.Model.fit`.

        Returns:
            The history.

        Raises:
            ValueError: the data are not valid, or the density is not finite where the fit starts, or improper.
        """
        observations.check_unused(kwargs)
        data = self._read(x, y, batch_size)
        if not data.whole and not isinstance(self.objective, ELBO):
            raise ValueError(
                "`objective` must be an ELBO if the data come in batches: no other one is a bound then. Received: "
                f"objective={checks.shown(self.objective)}"
            )
        if not self.compiled:
            self.compile_by_default()
        start = self._standardize(data)
        dataset = data.dataset.repeat(STEPS_PER_EPOCH) if data.whole else data.dataset
        automatic = epochs is None
        if automatic:
            epochs = MAX_EPOCHS
            callbacks = annealing.ending(self.posterior, callbacks)
            if not data.whole:  # A pass over large data takes too long to check for convergence only after each.
                dataset = dataset.repeat()
                kwargs.setdefault("steps_per_epoch", STEPS_PER_EPOCH)
        history = super().fit(dataset, epochs=epochs, callbacks=callbacks, **kwargs)
        if start is not None:
            modes.warn_of_missed(start.modes, start.density, self.approximation, self.space)
        self.__dict__["_data"] = (x, y)
        if automatic and data.whole and not self.approximation.misses_modes:
            self.draw()  # Warns if q is far from the posterior.
        return history

    def compile_by_default(self) -> None:
        """Compiles the model as `fit` compiles one that is not compiled."""
        with self.distribute_strategy.scope():
            optimizer = annealing.optimizer(self.posterior, self.space.dim)
            self.compile(optimizer, steps_per_execution=STEPS_PER_ITERATE)

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Estimates the metrics with `keras.Model.evaluate`. `draw` gives the ELBO with its standard error.

        Args:
            x: as for `fit`.
            y: as for `fit`.
            batch_size: as for `fit`.
            kwargs: the other arguments of `keras.Model.evaluate`.
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
            x: all of the data, as for `fit`; None takes the data of the last `fit`.
            y: as for `fit`.
            batch_size: as for `fit`.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The draws. A warning is given if their k-hat is above 0.7: see `tfvae.inference.check`.

        Raises:
            ValueError: x is not all of the data.
        """
        num_samples = checks.positive_integer("num_samples", num_samples)
        self._check_fitted("draw")
        x, y = self._all_data(x, y)
        data = self._read(x, y, batch_size)
        if data.whole:
            data = data._replace(dataset=list(data.dataset))
        seed = self._seed(seed)
        z, log_q = self.approximation.sample(num_samples, seed)
        log_weights = self._log_joint(z, data, seed) - log_q.numpy()
        latents = {name: value.numpy() for name, value in self._run(self.space.constrain, z)[0].items()}
        draws = Draws(latents, log_weights)
        if data.whole and self.local is None:
            draws = checked(draws, self.approximation, lambda z: self._log_joint(z, data, seed))
        if self.approximation.misses_modes:
            return modes.flagged(latents, log_weights, self.approximation)
        draws.warn_where_far()
        return draws

    def _all_data(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The data that are given, or, if there are none, those of the last `fit`."""
        if x is None and y is not None:
            raise ValueError("`x` must be given where `y` is. Received: x=None, and y")
        if x is None and self._data is not None:
            return self._data
        if x is None and self.num_data:
            raise ValueError("`x` must be given: a loaded model has no data. Received: x=None")
        return x, y

    def _check_fitted(self, method: str) -> None:
        is_standardized = keras.ops.convert_to_numpy(self.approximation.standardized) != 0.0
        if not is_standardized and self.local is None:
            raise ValueError(f"Fit the model before `{method}()`. Received: a model that is not fitted")

    def _read(self, x: Any, y: Any, batch_size: int | None) -> observations.Observations:
        """The data as a dataset, after checking its first batch and the shapes of the density for that batch."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        known = {
            "num_data": self.num_data,
            "replicas": replicas,
            "seed": self._progress.get_seed,
            "dtype": self._joint.dtype,
        }
        if x is not None and self._joint.target.pins is not None:
            raise ValueError(f"`x` must be None where the data are pinned. Received: x of type {type(x).__name__}")
        data = observations.read(x, y, batch_size=batch_size, **known)
        first = observations.first_rows(data.dataset, 1)
        if not observations.is_none(first):
            self.check_data(tf.nest.map_structure(np.asarray, first))
        self._joint.check(first, whole=data.whole, replicas=replicas)
        self.num_data = data.num_data
        return data

    def _standardize(self, data: observations.Observations) -> Start | None:
        """Standardises the coordinates unless they are already, and sets the control variate for batches."""
        seed = self.noise_seed % 2**31
        if self.local is not None:
            check_start(self._joint, data, seed)
            return None
        with self.distribute_strategy.scope():
            start = standardize(self.approximation, self.control_variate, self._joint, data, seed)
        # Set for these data: an earlier fit may have been of all data at once, or of batches.
        if self._controlled == data.whole:
            self.__dict__["_controlled"] = not data.whole
            self.train_function = None
        return start

    def _log_joint(self, z: tf.Tensor, data: observations.Observations, seed: tf.Tensor) -> np.ndarray:
        """Evaluates log p(data, z) [S] at z [S, L], in chunks of rows and draws."""
        total = np.zeros(len(z))
        for index, (batch, batch_seed) in enumerate(seeds.for_each(observations.one_pass(data), seed)):
            size = chunks.rows_within(_CHUNK_ELEMENTS, len(tf.nest.flatten(batch)[0]))
            for part, part_seed in seeds.for_slices(len(z), size, batch_seed):
                log_prior, log_rows = self._run(self._log_rows, z[part], batch, part_seed)
                total[part] += log_rows if index else log_prior + log_rows
        return total

    def _log_rows(self, z: tf.Tensor, x: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates log p(z) [S], and log p(x | z) - log q(local latents | x) [S], summed over these rows alone."""
        log_prior, log_likelihood, log_local = self._joint.log_densities(z, x, num_data=None, seed=seed)
        return log_prior, log_likelihood - log_local

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Loads the weights that `save_own_variables` saved.

        Raises:
            ValueError: the weights are of another model, or `local` is not built yet.
        """
        if self.local is not None and not self.local.built:
            raise ValueError(
                "`local` must have an encoder that knows the shape of its input, from keras.Input, before weights are "
                f"loaded. Received: {checks.shown(self.local.encoder)}"
            )
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that a file can hold, and the names of those that are the user's own code."""
        return {**super().get_config(), "num_data": self.num_data}
