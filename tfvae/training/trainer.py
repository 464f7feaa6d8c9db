"""How a model's `fit`, `evaluate` and `predict` run, from their arguments to the step on each batch."""

import abc
import inspect
import math
from collections.abc import MutableMapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfvae import private_apis
from tfvae.callbacks import FrozenWarning, NonFiniteLossWarning
from tfvae.data import epochs
from tfvae.distribute import replicas
from tfvae.training import averages, step
from tfvae.training.batch import Batch, batch_of_step, check_ends, peek
from tfvae.training.fit_arguments import check_compile, read_evaluate, read_fit
from tfvae.training.loop import Loop
from tfvae.training.plan import LayerTraits, Plan, make_plan
from tfvae.training.sources import CheckingModel

# The arguments of `Trainer.warm_up_kl` with which the weight is always 1.
_NO_WARM_UP = (1.0, 1.0)


class Trainer(CheckingModel):
    """A model that computes its own losses and trains on them, on one device or many.

    A subclass defines the losses of a batch; this class trains, evaluates and sums over replicas. A call of `fit` takes
    three steps: `read_fit` interprets the arguments, `make_plan` decides how training runs, and Keras's own `fit` calls
    the `Loop`, which runs `train_step` on one batch after another.

    Args:
        kwargs: the arguments of `keras.Model`.
    """

    train_function: Any
    test_function: Any
    # A step whose gradient has a larger norm is skipped; None for none.
    max_gradient_norm: float | None = None
    # The callbacks that `fit` adds.
    warnings: ClassVar[tuple[type[keras.callbacks.Callback], ...]] = (FrozenWarning, NonFiniteLossWarning)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Set through __dict__, because Keras's __setattr__ would look for layers in the plan.
        self.__dict__.update(_plan=None, _begins_fit=False, _trained=[], _weighs_kl=False)
        # `start` and `steps` of `warm_up_kl`, as a variable, so that the compiled steps need not be traced again. It is
        # not a weight: a file that is saved during a warm-up must not contain it.
        self._kl_warm_up = tf.Variable(
            _NO_WARM_UP, trainable=False, name="kl_warm_up", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )

    @abc.abstractmethod
    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the losses of a batch.

        Args:
            batch: the data and the seed of the step.
            training: whether this is a training step.

        Returns:
            The scalar losses of this replica, which sum over the replicas to the losses of the global batch: in
            training, one for each of `minimizers`; and the values of the metrics by name, each [B, ...].
        """

    def minimizers(self) -> list[step.Minimizer]:
        """The variables and the optimizer for each of the losses: here a single loss, minimised over all variables.

        This is a method because Keras would save the optimizers a second time if they were the value of a property.
        """
        return [step.Minimizer(self.trainable_variables, self.optimizer)]

    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The distinct optimizers of the minimizers."""
        return step.optimizers_of(self.minimizers())

    @property
    def steps_taken(self) -> Any:
        """The number of updates of the weights so far, a scalar: the steps of the first of the optimizers."""
        return self.optimizers()[0].iterations if self.compiled else 0

    @property
    def kl_weight(self) -> tf.Tensor:
        """The weight of the KL divergence in the next training step, a scalar: 1, or less during a warm-up."""
        start, steps = tf.unstack(self._kl_warm_up)
        taken = tf.cast(self.steps_taken, tf.float32)
        left = tf.nn.relu(1.0 - taken / steps)
        # Exactly 1 after the warm-up.
        return 1.0 - (1.0 - start) * left

    def warm_up_kl(self, start: float = 1.0, steps: int = 1) -> None:
        """Sets how `kl_weight` rises, during the `fit` that is running: see `tfvae.callbacks.KLWarmUp`.

        Args:
            start: the weight before the optimizer's first step; 1 for no warm-up.
            steps: the number of `steps_taken` after which the weight is 1.
        """
        self._kl_warm_up.assign([start, steps])
        if start != 1.0 and not self._weighs_kl:
            # Steps that were traced before the first warm-up do not contain the weight, which costs a small model 3% of
            # its time.
            self.__dict__["_weighs_kl"] = True
            if self.train_function is not None:
                self.make_train_function(force=True)

    @property
    def plan(self) -> Plan | None:
        """The plan of the `fit` that is running; None outside of `fit`."""
        return self._plan

    def use_averages(self, use: bool = True) -> None:
        """Puts the averages of the weights over the steps in their place, or puts the weights back.

        An optimizer with `use_ema=True`, such as `keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.999)`, keeps
        averages = ema_momentum * averages + (1 - ema_momentum) * weights in each step. `fit` then validates with them,
        has them in the model at the end of each epoch and of the training, so that files and exports have them too, and
        goes on from the weights, as they were, when it takes the next step. Without such an optimizer, or before its
        first step, this does nothing. State that is not trained, as that of a batch normalisation, has no average.

        Weights that are set by hand after a training take the place of the averages; call `compile` with a new
        optimizer to train on from them.

        Args:
            use: True for the averages, False for the weights that the last step has left.

        Reference: Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging.
        """
        if use != self._progress.holds_averages:
            is_swapped = self.compiled and averages.swap(self.minimizers())
            # If a file did not have the state of these optimizers, they have no weights to give back.
            self._progress.holds_averages = use and is_swapped

    def cast(self, x: tf.Tensor) -> tf.Tensor:
        """Converts a tensor of x to the dtype in which the losses are computed: float32."""
        return tf.cast(x, tf.float32)

    def operations_per_example(self, layers: LayerTraits) -> float:
        """The number of floating-point operations per example in a training step; infinity if it is unknown.

        Args:
            layers: the traits of the model's layers.
        """
        return math.inf

    def build_optimizers(self) -> None:
        """Creates the variables of all optimizers that are not built yet.

        If the first step created them, it would be traced twice.

        Raises:
            ValueError: a variable of the minimizers is not trainable, or belongs to two of them.
        """
        minimizers = self.minimizers()
        step.check(minimizers, self.trainable_variables)
        with self.distribute_strategy.scope():
            for optimizer in step.optimizers_of(minimizers):
                if not optimizer.built:
                    # When Keras loads a file, it builds the optimizer of `compile` with all trainable variables.
                    of_others = (v for each in minimizers if each.optimizer is optimizer for v in each.variables)
                    optimizer.build(self.trainable_variables if optimizer is self.optimizer else list(of_others))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Sets the optimizer and how steps run: `keras.Model.compile`, without a loss or metrics.

        Args:
            args: the arguments of `keras.Model.compile`.
            kwargs: the arguments of `keras.Model.compile`.

        Raises:
            ValueError: a loss or metrics are given, or another argument is out of its range. The model is then left as
                it was.
        """
        check_compile(self, *args, **kwargs)
        super().compile(*args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as saved in a file.

        Args:
            config: the result of `get_compile_config`.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves what `StatefulModel` does, and builds the optimizers, whose state Keras saves next.

        So the files of a model that was never trained have the same variables as those of one that was.
        """
        if self.compiled and self.built:
            self.build_optimizers()
        super().save_own_variables(store)

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved, and builds the optimizers, whose state Keras loads next."""
        if self.compiled and self.built:
            self.build_optimizers()
        super().load_own_variables(store)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one training step on one batch, and returns the metrics."""
        batch = batch_of_step(self, data)
        gradients, values = replicas.compiled(self, self.batch_gradients)(batch)
        is_alone = replicas.count() == 1
        if not is_alone:
            replicas.share_statistics(self, batch.size / batch.global_size)
        self.update_statistics(values, batch)
        of_step = step.update(self, gradients, is_alone)
        values |= {name: tf.fill(tf.shape(values["loss"]), value) for name, value in of_step.items()}
        return self._update_metrics(values, batch)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Updates the metrics with one batch, and returns them."""
        batch = batch_of_step(self, data)
        return self._update_metrics(replicas.compiled(self, self.batch_losses)(batch, training=False)[1], batch)

    def update_statistics(self, values: dict[str, tf.Tensor], batch: Batch) -> None:
        """Sets the weights that a model computes from its batches, not by a gradient; by default there are none.

        It is called in each training step before the update, and outside of what XLA compiles where there are several
        replicas, so that it may sum over these.

        Args:
            values: what `batch_losses` returned beside the losses.
            batch: the data and the seed of the step.
        """

    def batch_gradients(self, batch: Batch) -> tuple[list[list[Any]], dict[str, tf.Tensor]]:
        """The gradients for each minimizer, and the values of the metrics: see `step.gradients`."""
        return step.gradients(self, batch)

    def predict_step(self, data: Any) -> Any:
        """The model's output for one batch."""
        return self(self.unpack(data)[0], training=False)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's output for one batch."""
        # Keras makes every replica compute the whole batch, and returns the copies concatenated.
        return super().predict_on_batch(x)[: len(tf.nest.flatten(self.unpack(x)[0])[0])]

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function that runs training steps: see `Loop`."""
        self.build_optimizers()
        step.check_optimizers(self.minimizers())
        by_xla = self._trains_by_xla if self._plan is None else self._plan.by_xla
        loop, trained = self.train_function, [id(variable) for variable in self.trainable_variables]
        # The steps that an earlier `fit` has traced train what was trainable then.
        if loop is None or force or by_xla != self._trains_by_xla or trained != self._trained:
            self.train_function = Loop(self, self._progress, by_xla)
            self.__dict__["_trained"] = trained

    def make_test_function(self, force: bool = False) -> None:
        """Makes the function that runs `test_step` on batches of an iterator."""
        if self.test_function is None or force:
            steps = replicas.Steps(self, self.test_step)

            def function(iterator: Any) -> dict[str, Any]:
                if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
                    return steps.on_iterator(iterator, self.steps_per_execution)
                # `test_on_batch` passes an ordinary iterator over one batch.
                return steps.on_batch(next(iterator))

            self.test_function = function

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model: `keras.Model.fit`, preceded by checks of the data.

        Before the first step, all values of arrays are checked, or the first batch of any other kind of data. A loss
        that is not finite causes a warning at the end of its epoch. If `compile` does not set `steps_per_execution` or
        `jit_compile`, they are chosen here: see `tfvae.training.plan`.

        Args:
            x: an array [N, ...], a data frame of numbers, a sparse matrix or an AnnData object, all of which become
                dense arrays; or a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator; its elements may be
                `(x, y)` or `(x, y, sample_weight)`. If y has the shape of x, an autoencoder is trained to remove noise:
                q(z|x) is of x, and the likelihood p(y|z) is of y. Any other y, such as labels, is ignored.
            args: the other arguments of `keras.Model.fit`.
            kwargs: the other arguments of `keras.Model.fit`.

        Returns:
            The history, with the metrics of each epoch.

        Raises:
            ValueError: the model is not compiled, or cannot be trained on x.
        """
        arguments = read_fit(self, self._progress.get_seed, x, *args, **kwargs)
        plan = make_plan(self, self._progress, arguments, self._trains_by_xla)
        # A callback may call `fit` within a `fit`: the inner call has its own plan, and the outer one is then restored.
        outer, outer_warm_up = self._plan, self._kl_warm_up.numpy()
        try:
            self.__dict__.update(_plan=plan, _begins_fit=True)
            self._progress.begin(arguments.initial_epoch)
            # If an earlier `fit` was resumed, Keras still remembers the epoch at which it started.
            private_apis.set_initial_epoch(self, None)
            self.warm_up_kl()
            with averages.kept(self.optimizer):
                return super().fit(**plan.arguments)
        finally:
            self.use_averages()
            self.__dict__.update(_plan=outer, _begins_fit=False)
            self._kl_warm_up.assign(outer_warm_up)
            self._progress.under_way = outer is not None
            epochs.set_epoch(None)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the metrics on data: `keras.Model.evaluate`, preceded by the same checks of the data as in `fit`.

        Each call draws new noise, from the same stream that training draws from.

        Args:
            x: as for `fit`.
            args: the other arguments of `keras.Model.evaluate`.
            kwargs: the other arguments of `keras.Model.evaluate`.

        Returns:
            The metrics as a list; with `return_dict=True`, by name.

        Raises:
            ValueError: the model cannot be evaluated on x.
        """
        if private_apis.is_validation_of_fit(kwargs):
            self.use_averages()
            return super().evaluate(x, *args, **kwargs)
        return super().evaluate(**read_evaluate(self, x, *args, **kwargs))

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the model's output on data: `keras.Model.predict`, preceded by the same checks as in `fit`.

        Args:
            x: as for `fit`.
            args: the other arguments of `keras.Model.predict`.
            kwargs: the other arguments of `keras.Model.predict`.

        Returns:
            The output, as an array.

        Raises:
            ValueError: x is not valid data for this model.
        """
        batch, x = peek(self.of_rows(x))
        if inspect.signature(super().predict).bind(x, *args, **kwargs).arguments.get("steps") is None:
            check_ends(x, steps="steps")
        self.check_source(batch, x, "x", is_encoded_only=True)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Takes one training step on one batch: `keras.Model.train_on_batch`.

        Args:
            x: as for `fit`, an array [B, ...].
            y: as for `fit`, an array.
            args: the other arguments of `keras.Model.train_on_batch`.
            kwargs: the other arguments of `keras.Model.train_on_batch`.

        Returns:
            The metrics as a list; with `return_dict=True`, by name.
        """
        x = self.of_rows(x)
        if self.train_function is None:
            self.check_source((x, y), (x, y), "x")
            self.check_training((x, y))
        return super().train_on_batch(x, y, *args, **kwargs)

    def before_steps(self, iterator: Any, batch: Any) -> None:
        """Checks the batch of `train_on_batch` or `test_on_batch`; in `fit`, sets the planned steps per execution.

        This replaces Keras's own hook, which builds the model from the mean of the replicas' first batches, and fails
        if these differ in size. Here `check_data` builds the model.

        Args:
            iterator: Keras's iterator over the executions of an epoch, or None for a single batch.
            batch: the single batch, or None.
        """
        if batch is not None:
            replicas.check(self)
            self.check_source(batch, batch, "x")
        # The first iterator after the call of `fit` is that of the training data; later ones belong to evaluations.
        if iterator is not None and self._begins_fit and self._plan is not None:
            private_apis.set_steps_per_execution(iterator, self._plan.steps_per_execution)
            self.__dict__["_begins_fit"] = False

    @property
    def _trains_by_xla(self) -> bool:
        """Whether XLA compiles the steps of the current train function, which an earlier `fit` may have made."""
        return isinstance(self.train_function, Loop) and self.train_function.by_xla

    def _update_metrics(self, values: dict[str, tf.Tensor], batch: Batch) -> dict[str, Any]:
        """Updates each metric with the values [B] of its name, so that means are over examples, not over batches."""
        for metric in self.metrics:
            # A user's layer may add metrics, which update themselves.
            if metric.name in values:
                value, weight = values[metric.name], batch.sample_weight
                if metric.name == "loss" and weight is not None:
                    # The loss is already weighted; only the placeholder row of an empty batch gets weight 0.
                    weight = tf.fill(tf.shape(value), tf.minimum(batch.size, 1.0))
                metric.update_state(value, sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}
