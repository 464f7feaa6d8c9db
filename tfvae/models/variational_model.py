"""The model that every model of tfvae is: a `keras.Model` whose `train_step` follows the gradient of a bound."""

import abc
import functools
import os
import random
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvae import callbacks, checks, files
from tfvae.data import epochs
from tfvae.distribute import replicas
from tfvae.elbo import ElboTerms, Path, Sampling
from tfvae.objectives import ELBO, Objective
from tfvae.training import fit_arguments, fused_adam, plan, resume
from tfvae.training.batch import Batch, peek, shuffle_arrays, unpack


class VariationalModel(plan.OpenExecution, abc.ABC):
    """A model trained by maximising a lower bound on log p(x).

    A subclass says how the terms of the bound are estimated; training, evaluation, metrics, noise and the sums over
    replicas are here. Metrics, each a mean over examples:

    - `loss`: what is minimised: the negative objective, plus the regularisation losses of the layers;
    - `elbo`: the evidence lower bound, log_likelihood - kl, whatever the objective, in nats: higher is better;
    - `log_likelihood`: E_q[log p(x|z)], in nats;
    - `kl`: KL(q(z|x) || p(z)), in nats.

    Sample weights multiply each example's objective; as in Keras, the loss is divided by the number of examples.

    Args:
        objective: what is maximised; None means `ELBO()`.
        kwargs: the arguments of `keras.Model`.
    """

    # The callbacks that `fit` adds.
    warnings: ClassVar[tuple[type[keras.callbacks.Callback], ...]] = (callbacks.NonFiniteLossWarning,)

    def __init__(self, objective: Objective | None = None, **kwargs: Any) -> None:
        # The networks cast x as their own dtype policy says; log-densities are of x as it is, in float32.
        super().__init__(autocast=False, **kwargs)
        self.objective = ELBO() if objective is None else objective
        self._trackers = [keras.metrics.Mean(name=name) for name in ("elbo", "log_likelihood", "kl")]
        self._trackers += self._more_metrics()
        self._progress = resume.Progress()
        # Past Keras, which would try to save these graphs with the model.
        self.__dict__["_functions"] = {}
        # No weight, because a file that is saved during a warm-up must not keep it.
        self.kl_weight = tf.Variable(
            1.0, trainable=False, name="kl_weight", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        # A weight, because Keras saves no SeedGenerator: training that resumes would see other noise. Python's own
        # generator gives the start because `keras.utils.set_random_seed` seeds it.
        start = [random.getrandbits(31), 0]
        self._noise_state = self.add_weight(
            name="noise_state",
            shape=(2,),
            initializer=lambda shape, dtype: tf.constant(start, dtype),
            dtype="int64",
            trainable=False,
            autocast=False,
            aggregation="none",
        )

    @abc.abstractmethod
    def elbo_terms(self, x: tf.Tensor, sampling: Sampling) -> ElboTerms:
        """Estimates the terms of the bound.

        Args:
            x: the data [B, ...], float32.
            sampling: how z is drawn, and how the KL divergence is computed.

        Returns:
            The terms, in nats per example.
        """

    @abc.abstractmethod
    def check_data(self, x: np.ndarray) -> None:
        """Builds the model for data like x where that is still to be done, and checks x.

        Args:
            x: a batch, or all of the data, as the user gave it.

        Raises:
            ValueError: this model cannot be trained on x.
        """

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        """Metrics of a model's own, which are fed what `ElboTerms.metrics` has under their names."""
        return []

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Finds x and the sample weights, or None for these, in one element of what `fit` is given.

        Args:
            data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

        Raises:
            ValueError: x is not what this model is trained on.
        """
        return unpack(data)

    def cast(self, x: tf.Tensor) -> tf.Tensor:
        """A tensor of x as `elbo_terms` takes it: float32."""
        return tf.cast(x, tf.float32)

    @property
    def progress(self) -> tuple[int, int]:
        """The epoch that training is in, from 0, and how many of its steps are done."""
        return self._progress.epoch, self._progress.step

    @property
    def noise_seed(self) -> int:
        """The seed that all seeds of this model come from."""
        return int(keras.ops.convert_to_numpy(self._noise_state)[0])

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables that q(z|x) alone has, for objectives that have another one for these."""
        raise NotImplementedError(f"{type(self).__name__} does not say which variables are those of q(z|x)")

    def next_seed(self) -> tf.Tensor:
        """A new stateless seed, int32 [2]: another one at each call and on each replica, the same in each run."""
        seed = tf.cast(self._noise_state.value, tf.int32)
        self._noise_state.assign_add([0, 1])
        return tf.random.experimental.stateless_fold_in(seed, replicas.index())

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step up the gradient of the objective, on one batch."""
        batch = self._batch(data)
        gradients, values = replicas.compiled(self, self._gradients)(batch)
        if replicas.count() > 1:
            gradients = replicas.reduce_gradients(gradients, self.optimizer)
            replicas.share_statistics(self, batch.size / batch.global_size)
        fused_adam.fuse(self.optimizer)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._update_metrics(values, batch)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The metrics of one batch."""
        batch = self._batch(data)
        return self._update_metrics(replicas.compiled(self, self._bound_losses)(batch, training=False)[1], batch)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function that runs `train_step` on batches of an iterator."""
        if self.train_function is None or force:
            self.train_function = resume.counting(self, self._progress, self._training())

    def make_test_function(self, force: bool = False) -> None:
        """Makes the function that runs `test_step` on batches of an iterator."""
        if self.test_function is None or force:
            self.test_function = replicas.make_function(self, self.test_step, bool(self.jit_compile))

    def predict_step(self, data: Any) -> Any:
        """The model's output for one batch."""
        return self(self.unpack(data)[0], training=False)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's output for one batch."""
        # Keras has every replica compute all of it, and returns the copies one after the other.
        return super().predict_on_batch(x)[: len(tf.nest.flatten(self.unpack(x)[0])[0])]

    def _batch(self, data: Any) -> Batch:
        """What a step computes with; all that concerns other replicas, so that XLA may compile the rest."""
        x, sample_weight = self.unpack(data)
        x = tf.nest.map_structure(self.cast, x)
        if sample_weight is not None:
            sample_weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        rows = tf.shape(tf.nest.flatten(x)[0])[:1]
        size = tf.cast(rows[0], tf.float32)
        if replicas.count() > 1:
            x = tf.nest.map_structure(replicas.at_least_one, x)
            weights = tf.ones(rows) if sample_weight is None else sample_weight
            sample_weight = tf.concat([weights, tf.zeros(tf.maximum(1 - rows, 0))], axis=0)
        return Batch(x, sample_weight, size, replicas.total(size), self.next_seed())

    def _gradients(self, batch: Batch) -> tuple[list[Any], dict[str, tf.Tensor]]:
        """The gradients of this replica's part of the loss, and the values of the metrics by name [B]."""
        with tf.GradientTape(persistent=True) as tape:
            losses, values = self._bound_losses(batch, training=True)
            losses = [self.optimizer.scale_loss(loss) for loss in losses]
        gradients = tape.gradient(losses[0], self.trainable_variables)
        if len(losses) == 1:
            return gradients, values
        own = {id(variable) for variable in self.posterior_variables}
        others = tape.gradient(losses[1], self.trainable_variables)
        pairs = zip(self.trainable_variables, gradients, others, strict=True)
        return [other if id(variable) in own else gradient for variable, gradient, other in pairs], values

    def _bound_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """The scalar losses of this replica, which sum over replicas to those of the global batch.

        Returns:
            The loss and, in training, that of q(z|x) where it has its own; and the values of the metrics by name [B].
        """
        objective = self.objective
        path = Path() if objective.path_gradient else None
        terms = self.elbo_terms(
            batch.x, Sampling(objective.num_samples, batch.seed, objective.analytic_kl, path, training)
        )
        objectives = [objective, objective.for_posterior] if training and objective.for_posterior else [objective]
        tempered = objective.tempered(terms, self.kl_weight) if training else terms
        if path is not None:
            path.weights = objectives[-1].path_weights(tempered)
        losses = [-each(tempered) - terms.auxiliary for each in objectives]
        if batch.sample_weight is not None:
            losses = [loss * batch.sample_weight for loss in losses]
        regularization = tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses]) if self.losses else 0.0
        share = batch.size / batch.global_size
        values = {
            "loss": losses[0] + regularization,
            "elbo": terms.elbo,
            "log_likelihood": tf.reduce_mean(terms.log_likelihood, axis=0),
            "kl": terms.kl,
            **(terms.metrics or {}),
        }
        return [tf.reduce_sum(loss) / batch.global_size + regularization * share for loss in losses], values

    def _update_metrics(self, values: dict[str, tf.Tensor], batch: Batch) -> dict[str, Any]:
        """Feeds values [B] to the metric of the same name, so that averages weigh examples and not batches."""
        for metric in self.metrics:
            # A user's layer may have metrics of its own.
            if metric.name in values:
                value, weight = values[metric.name], batch.sample_weight
                if metric.name == "loss" and weight is not None:
                    # The loss has its weights in it already; an example that was added counts for nothing.
                    weight = tf.fill(tf.shape(value), tf.minimum(batch.size, 1.0))
                metric.update_state(value, sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves, beside the model's own weights, what training needs to go on exactly."""
        super().save_own_variables(store)
        resume.save_state(self, self._progress, store)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved.

        Raises:
            ValueError: it is of another model.
        """
        super().load_own_variables({name: store[name] for name in store.keys() if name.isdecimal()})  # noqa: SIM118
        resume.load_state(self, self._progress, store)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the weights: `keras.Model.save_weights`, whose file is there whole or not at all.

        Args:
            filepath: the file, ending in .weights.h5.
            overwrite: whether to replace a file that is there, or to ask.
            kwargs: the further arguments of `keras.Model.save_weights`.
        """
        with files.replacing_local(filepath, ".weights.h5", overwrite) as path:
            super().save_weights(path, overwrite, **kwargs)

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the model: `keras.Model.save`, whose file is there whole or not at all.

        Args:
            filepath: the file, ending in .keras.
            overwrite: whether to replace a file that is there, or to ask.
            kwargs: the further arguments of `keras.Model.save`.
        """
        with files.replacing_local(filepath, ".keras", overwrite) as path:
            super().save(path, overwrite, **kwargs)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model: `keras.Model.fit`, after a look at the data.

        All values of arrays are checked, and the first batch of anything else, before any step runs. A loss that
        is not finite gives a warning at the end of its epoch. How many steps run in one execution, and whether XLA
        compiles them, is chosen where `compile` leaves it open: see `tfvae.training.plan`.

        Args:
            x: an array [N, ...], a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator; `(x, y)` and
                `(x, y, sample_weight)` are accepted, and y is not used.
            args: the further arguments of `keras.Model.fit`.
            kwargs: the further arguments of `keras.Model.fit`.

        Returns:
            The history, with the metrics of each epoch.

        Raises:
            ValueError: the model cannot be trained on x, or was compiled with a loss or with metrics.
        """
        arguments = fit_arguments.arguments_of(self, keras.Model.fit, x, *args, **kwargs)
        fit_arguments.check_validation(self, arguments)
        data = None
        if arguments.get("shuffle", True) is True:
            data = shuffle_arrays(arguments, self.unpack, self._progress.get_seed)
        if isinstance(arguments["x"], tf.data.Dataset):
            # Keras warns of its own default, which a dataset cannot honour.
            arguments["shuffle"] = False
        rows = arguments.get("batch_size") or self._rows_seen
        with self._fitting(arguments, data, rows, fit_arguments.callbacks_of(arguments)):
            resume.add_callbacks(self, self._progress, arguments)
            try:
                return super().fit(**arguments)
            finally:
                epochs.set_epoch(None)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the metrics on data: `keras.Model.evaluate`, after the look at the data that `fit` takes.

        The noise is drawn anew, and moves on the stream that training draws from.

        Args:
            x: as for `fit`.
            args: the further arguments of `keras.Model.evaluate`.
            kwargs: the further arguments of `keras.Model.evaluate`.

        Returns:
            The metrics, as a list, or by name with `return_dict=True`.

        Raises:
            ValueError: the model cannot be evaluated on x.
        """
        # Within `fit` Keras passes the validation data again, after every epoch.
        if kwargs.get("_use_cached_eval_dataset", False):
            return super().evaluate(x, *args, **kwargs)
        arguments = fit_arguments.arguments_of(self, keras.Model.evaluate, x, *args, **kwargs)
        return super().evaluate(**arguments)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the model's output on data: `keras.Model.predict`, after the look at the data that `fit` takes.

        Args:
            x: as for `fit`.
            args: the further arguments of `keras.Model.predict`.
            kwargs: the further arguments of `keras.Model.predict`.

        Returns:
            The output, as an array.

        Raises:
            ValueError: x is not data of the model.
        """
        return super().predict(self.check_source(x, "x"), *args, **kwargs)

    def _run(self, function: Callable[..., Any], *tensors: tf.Tensor, **constants: int) -> Any:
        """Calls one of the model's functions as the model is compiled: eagerly, as a graph, or by XLA."""
        function_of_tensors = functools.partial(function, **constants)
        if self.run_eagerly:
            return function_of_tensors(*tensors)
        jit_compile = bool(self.jit_compile)
        key = (function.__name__, jit_compile, *constants.items())
        if key not in self._functions:
            self._functions[key] = tf.function(function_of_tensors, reduce_retracing=True, jit_compile=jit_compile)
        return self._functions[key](*tensors)

    def _seed(self, seed: int | None) -> tf.Tensor:
        return self.next_seed() if seed is None else tf.constant([checks.seed_number(seed), 0], tf.int32)

    def check_source(self, data: Any, argument: str) -> Any:
        """Checks the first batch of `data`, and returns `data` with nothing taken from it.

        Args:
            data: what a method such as `fit` was given.
            argument: under which name.

        Raises:
            ValueError: this model cannot be trained on it.
        """
        batch, data = peek(data)
        if batch is None:
            raise ValueError(f"`{argument}` must hold at least one batch. Received: {data!r}")
        try:
            x = tf.nest.map_structure(checks.to_numpy, self.unpack(batch)[0])
            self.check_data(x)
        except ValueError as error:
            if argument == "x":
                raise
            raise ValueError(f"`{argument}`: {error}") from error
        if argument == "x":
            self._rows_seen = 32 if batch is data else len(tf.nest.flatten(x)[0])  # Of arrays Keras takes 32.
        return data

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Checks the data of `train_on_batch` and `test_on_batch`, and builds the optimizer where there is a strategy.

        Keras's own takes the mean of the replicas' first batches, which fails when these differ in size. The model is
        built already by `check_data`.
        """
        if data_batch is not None:
            replicas.check(self)
            self.check_source(data_batch, "x")
        if self._distribute_strategy is not None:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
