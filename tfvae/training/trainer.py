"""How `fit`, `evaluate` and `predict` of a model run, from their arguments to the steps on a batch."""

import abc
import math
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, private_apis
from tfvae.callbacks import NonFiniteLossWarning
from tfvae.data import epochs
from tfvae.distribute import replicas
from tfvae.training import step
from tfvae.training.batch import Batch, peek, unpack
from tfvae.training.fit_arguments import read_evaluate, read_fit
from tfvae.training.loop import Loop
from tfvae.training.plan import LayerTraits, Plan, make_plan
from tfvae.training.state import StatefulModel


class Trainer(StatefulModel, abc.ABC):
    """A model that is trained on losses of its own, on one device or many.

    A subclass says what the losses of a batch are; training, evaluation and the sums over replicas are here. A `fit`
    goes this way: `read_fit` finds out what its arguments mean; `make_plan` decides how it runs; Keras's own `fit`
    calls the `Loop`, which runs `train_step` on one batch after the other.

    Args:
        kwargs: the arguments of `keras.Model`.
    """

    train_function: Any
    test_function: Any
    # The callbacks that `fit` adds.
    warnings: ClassVar[tuple[type[keras.callbacks.Callback], ...]] = (NonFiniteLossWarning,)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Past Keras, which would look for layers in it.
        self.__dict__["_plan"] = None
        # No weight, because a file that is saved during a warm-up must not keep it.
        self.kl_weight = tf.Variable(
            1.0, trainable=False, name="kl_weight", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )

    @abc.abstractmethod
    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the losses of a batch.

        Args:
            batch: what the step computes with.
            training: whether it is a step of training.

        Returns:
            The scalar losses of this replica, which sum over replicas to those of the global batch: one for each of
            `minimizers` in training; and the values of the metrics by name, each [B, ...].
        """

    @abc.abstractmethod
    def check_data(self, x: np.ndarray) -> None:
        """Builds the model for data like x where that is still to be done, and checks x.

        Args:
            x: a batch, or all of the data, as the user gave it.

        Raises:
            ValueError: this model cannot be trained on x.
        """

    def minimizers(self) -> list[step.Minimizer]:
        """Who minimises each of the losses: the only one all trainable variables, by the optimizer of `compile`.

        A method, because Keras would save the optimizers anew under the name of a property that holds them.
        """
        return [step.Minimizer(self.trainable_variables, self.optimizer)]

    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers of the minimizers, each once."""
        return step.optimizers_of(self.minimizers())

    @property
    def plan(self) -> Plan | None:
        """How the `fit` runs that is under way; None outside of one."""
        return self._plan

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Finds x and the sample weights, or None for these, in one element of what `fit` is given.

        Args:
            data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

        Raises:
            ValueError: x is not what this model is trained on.
        """
        return unpack(data)

    def cast(self, x: tf.Tensor) -> tf.Tensor:
        """A tensor of x as the losses take it: float32."""
        return tf.cast(x, tf.float32)

    def operations_per_example(self, layers: LayerTraits) -> float:
        """The floating-point operations of one example in a step of training; infinity where they are not known.

        Args:
            layers: what is known of the model's layers.
        """
        return math.inf

    def build_optimizers(self) -> None:
        """Makes the variables of the optimizers where that is still to be done.

        A first step that made them itself would be traced twice.
        """
        minimizers = self.minimizers()
        with self.distribute_strategy.scope():
            for optimizer in step.optimizers_of(minimizers):
                if not optimizer.built:
                    # Keras gives that of `compile` all variables when it loads a file.
                    of_others = (v for each in minimizers if each.optimizer is optimizer for v in each.variables)
                    optimizer.build(self.trainable_variables if optimizer is self.optimizer else list(of_others))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as a file says, whose state of all optimizers Keras then loads.

        Args:
            config: what `get_compile_config` returned.
        """
        super().compile_from_config(config)
        if self.built:
            self.build_optimizers()

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step down the gradients of the losses, on one batch."""
        batch = self._batch(data)
        gradients, values = replicas.compiled(self, self.batch_gradients)(batch)
        is_alone = replicas.count() == 1
        if not is_alone:
            replicas.share_statistics(self, batch.size / batch.global_size)
        step.update(self, gradients, is_alone)
        return self._update_metrics(values, batch)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The metrics of one batch."""
        batch = self._batch(data)
        return self._update_metrics(replicas.compiled(self, self.batch_losses)(batch, training=False)[1], batch)

    def batch_gradients(self, batch: Batch) -> tuple[list[list[Any]], dict[str, tf.Tensor]]:
        """The gradients of the losses, for each minimizer, and the values of the metrics: see `step.gradients`."""
        return step.gradients(self, batch)

    def predict_step(self, data: Any) -> Any:
        """The model's output for one batch."""
        return self(self.unpack(data)[0], training=False)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's output for one batch."""
        # Keras has every replica compute all of it, and returns the copies one after the other.
        return super().predict_on_batch(x)[: len(tf.nest.flatten(self.unpack(x)[0])[0])]

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function that runs steps of training: see `Loop`."""
        self.build_optimizers()
        by_xla = self._trains_by_xla if self._plan is None else self._plan.by_xla
        if self.train_function is None or force or by_xla != self._trains_by_xla:
            self.train_function = Loop(self, self._progress, by_xla)

    def make_test_function(self, force: bool = False) -> None:
        """Makes the function that runs `test_step` on batches of an iterator."""
        if self.test_function is None or force:
            steps = replicas.Steps(self, self.test_step)

            def function(iterator: Any) -> dict[str, Any]:
                if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
                    return steps.on_iterator(iterator, self.steps_per_execution)
                # `test_on_batch`.
                return steps.on_batch(next(iterator))

            self.test_function = function

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
        arguments = read_fit(self, self._progress.get_seed, x, *args, **kwargs)
        # A `fit` that a callback of another calls has a plan of its own.
        outer = self._plan
        self.__dict__["_plan"] = make_plan(self, self._progress, arguments, self._trains_by_xla)
        self._progress.begin(arguments.initial_epoch)
        # Keras keeps the epoch that an earlier training was resumed with.
        private_apis.set_initial_epoch(self, None)
        # An earlier training that was interrupted has not ended its warm-up.
        self.kl_weight.assign(1.0)
        try:
            return super().fit(**self._plan.arguments)
        finally:
            self.__dict__["_plan"], self._progress.under_way = outer, outer is not None
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
        if private_apis.is_validation_of_fit(kwargs):
            return super().evaluate(x, *args, **kwargs)
        return super().evaluate(**read_evaluate(self, x, *args, **kwargs))

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
        batch, x = peek(x)
        self.check_source(batch, x, "x")
        return super().predict(x, *args, **kwargs)

    def check_source(self, batch: Any, data: Any, argument: str) -> None:
        """Checks the first batch of data that a method such as `fit` was given.

        Args:
            batch: the first batch, or all of the data where these are arrays; None where there is no batch.
            data: the data.
            argument: the name of the argument that they were given as.

        Raises:
            ValueError: this model cannot be trained on them.
        """
        if batch is None:
            raise ValueError(f"`{argument}` must hold at least one batch. Received: {data!r}")
        try:
            self.check_data(tf.nest.map_structure(checks.to_numpy, self.unpack(batch)[0]))
        except ValueError as error:
            if argument == "x":
                raise
            raise ValueError(f"`{argument}`: {error}") from error

    def before_steps(self, iterator: Any, batch: Any) -> None:
        """Checks the batch of `train_on_batch` and `test_on_batch`, and sets the steps of `fit`.

        `check_data` has built the model already. What Keras does here would take the mean of the replicas' first
        batches, which fails when these differ in size.

        Args:
            iterator: Keras's iterator over the executions of an epoch, or None for one batch.
            batch: the batch, or None.
        """
        if batch is not None:
            replicas.check(self)
            self.check_source(batch, batch, "x")
        # Before the first step it is that of the training data, later that of an evaluation.
        if iterator is not None and self._plan is not None and not self._progress.under_way:
            private_apis.set_steps_per_execution(iterator, self._plan.steps_per_execution)

    @property
    def _trains_by_xla(self) -> bool:
        """Whether XLA compiles the steps of the function that trains, as an earlier `fit` has left it."""
        return isinstance(self.train_function, Loop) and self.train_function.by_xla

    def _batch(self, data: Any) -> Batch:
        """What a step computes with; all that concerns other replicas, so that XLA may compile the rest."""
        x, sample_weight = self.unpack(data)
        x = tf.nest.map_structure(self.cast, x)
        if sample_weight is not None:
            sample_weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        rows = tf.shape(tf.nest.flatten(x)[0])[:1]
        size = global_size = tf.cast(rows[0], tf.float32)
        if replicas.count() > 1:
            global_size = replicas.total(size)
            x = tf.nest.map_structure(replicas.at_least_one, x)
            weights = tf.ones(rows) if sample_weight is None else sample_weight
            sample_weight = tf.concat([weights, tf.zeros(tf.maximum(1 - rows, 0))], axis=0)
        return Batch(x, sample_weight, size, global_size, self.next_seed())

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
