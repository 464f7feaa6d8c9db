"""Fits q to many data sets by one program, each step of which is one step for each of the data sets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae.inference import annealing, convergence, modes
from tfvae.inference.convergence import MAX_EPOCHS, STEPS_PER_EPOCH, STEPS_PER_ITERATE, Convergence, Stages
from tfvae.inference.many_densities import ManyDensities, specs_of
from tfvae.inference.start import Start, one_blas_thread, start_from, starting_points
from tfvae.inference.variational_inference import VariationalInference
from tfvae.training.batch import Batch


class Fitted(NamedTuple):
    """What was found for one data set.

    Attributes:
        start: where the fit started.
        weights: the trainable weights, as one vector.
        converged: whether the fit ended because q had converged.
    """

    start: Start
    weights: np.ndarray
    converged: bool


class ManyFits:
    """Fits a model to data sets of the same shapes, as its `fit` does to one, from the beginning.

    All data sets share the noise of the steps.

    Args:
        model: a model that is not fitted, of a family for which `fit` uses `Convergence`.
        data: the first data sets, structures of tensors with a leading axis [K].

    Raises:
        ValueError: TensorFlow cannot vectorise an operation of the density.
    """

    def __init__(self, model: VariationalInference, data: Any) -> None:
        self._model = model
        self._densities = ManyDensities(model._joint, data)
        self._first = convergence.weights_of(model)
        approximation = model.approximation
        self._frozen = [approximation.loc, approximation.scale]
        self._adam = annealing.optimizer(model.posterior, approximation.dim)
        self._settings = Convergence()
        weights = tf.TensorSpec([None, len(self._first)], tf.float32)
        coordinates = [tf.TensorSpec([None, *each.shape], each.dtype) for each in self._frozen]
        others = (tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.float32))
        signature = [weights, weights, weights, tf.TensorSpec([None], tf.float32), coordinates, specs_of(data), *others]
        self._epoch = tf.function(self._run_epoch, input_signature=signature, autograph=False)
        # Traced now, because that may raise an error.
        self._epoch.get_concrete_function()

    @one_blas_thread
    def fit(self, data: Any, seeds: Sequence[int]) -> list[Fitted | Exception]:
        """Fits the model to K data sets.

        Args:
            data: the data sets, structures of tensors with a leading axis [K].
            seeds: the seeds of their starts, of which the first is also that of the noise.

        Returns:
            What was found, or the error, for each data set.
        """
        joint = self._model._joint
        self._densities.data = data
        points = [starting_points(joint, each) for each in seeds[: len(tf.nest.flatten(data)[0])]]

        def search(density: Any) -> Start:
            rows = tf.nest.map_structure(lambda part: part[density.index], data)
            return start_from(joint, density, points[density.index], rows, seeds[density.index])

        found: list[Any] = self._densities.search(search)
        at = [index for index, start in enumerate(found) if isinstance(start, Start)]
        if at:
            own = tf.nest.map_structure(lambda part: tf.gather(part, at), data)
            trained = self._train([found[index] for index in at], own, seeds[0])
            for index, each in zip(at, trained, strict=True):
                found[index] = Fitted(found[index], *each)
        return found

    def use(self, fitted: Fitted, index: int) -> None:
        """Sets the q of the model to what was found for one of the data sets of the last `fit`.

        Args:
            fitted: what was found.
            index: the number of the data set.
        """
        approximation = self._model.approximation
        approximation.set_coordinates(fitted.start.gaussian)
        convergence.assign(self._model, fitted.weights)
        if not fitted.converged:
            self._settings.warn()
        modes.warn_of_missed(fitted.start.modes, self._densities.of(index), approximation, self._model.space)

    def _train(self, starts: Sequence[Start], data: Any, seed: int) -> list[tuple[np.ndarray, bool]]:
        """The weights for each of K data sets, and whether they have converged."""
        approximation, weights = self._model.approximation, []
        for start in starts:
            approximation.set_coordinates(start.gaussian)
            weights.append([each.numpy() for each in self._frozen])
        frozen = [tf.constant(np.stack(each)) for each in zip(*weights, strict=True)]
        count, rate = len(starts), float(self._adam.learning_rate)
        values = np.repeat(self._first[np.newaxis], count, axis=0)
        first = second = np.zeros_like(values)

        def are_different(first: np.ndarray, second: np.ndarray) -> bool:
            return convergence.differ(self._model, first, second, self._settings.tolerance)

        stages = [Stages(rate, self._settings.max_epochs, are_different) for _ in starts]
        last = values.copy()
        left = np.arange(count)
        for epoch in range(MAX_EPOCHS):
            rates = np.array([stages[index].rate for index in left], np.float32)
            epoch_seed = tf.constant([seed, epoch])
            outputs = self._epoch(values, first, second, rates, frozen, data, epoch_seed, tf.constant(float(epoch)))
            values, first, second, means, are_finite = (each.numpy() for each in outputs)
            for row, index in enumerate(left):
                new = stages[index].end_epoch(means[row], bool(are_finite[row]))
                values[row] = values[row] if new is None else new
            last[left] = values
            kept = np.flatnonzero([not stages[index].ended for index in left])
            if not len(kept):
                break
            if len(kept) < len(left):
                left, values, first, second = left[kept], values[kept], first[kept], second[kept]
                frozen, data = tf.nest.map_structure(lambda part, kept=kept: tf.gather(part, kept), (frozen, data))
        bests = [each.best() for each in stages]
        return [
            (own if best is None else best, each.converged) for own, best, each in zip(last, bests, stages, strict=True)
        ]

    def _run_epoch(
        self,
        values: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rates: tf.Tensor,
        frozen: list[tf.Tensor],
        data: Any,
        seed: tf.Tensor,
        epoch: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """One epoch of Adam for K data sets.

        Args:
            values: the weights [K, D].
            first: the first moments [K, D].
            second: the second moments [K, D].
            rates: the learning rates [K].
            frozen: the coordinates of q, [K, ...] each.
            data: the data sets.
            seed: a stateless seed.
            epoch: the number of the epoch.

        Returns:
            The weights and moments at its end, the mean of its iterates [K, D] and whether all losses were finite [K].
        """

        def step(index: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            values, first, second, total, are_finite = state
            step_seed = tf.random.experimental.stateless_fold_in(seed, index)
            gradients = tf.vectorized_map(
                lambda each: self._gradient(each[0], each[1], each[2], step_seed),
                (values, frozen, data),
                fallback_to_while_loop=False,
            )
            finite = tf.reduce_all(tf.math.is_finite(gradients), axis=1)
            gradients = tf.where(finite[:, tf.newaxis], gradients, 0.0)
            count = epoch * STEPS_PER_EPOCH + tf.cast(index, tf.float32) + 1.0
            change, first, second = adam_change(self._adam, gradients, first, second, count)
            values -= rates[:, tf.newaxis] * change
            is_iterate = tf.cast((index + 1) % STEPS_PER_ITERATE == 0, tf.float32)
            return index + 1, values, first, second, total + is_iterate * values, are_finite & finite

        start = (tf.constant(0), values, first, second, tf.zeros_like(values), tf.ones(tf.shape(values)[:1], tf.bool))
        _, values, first, second, total, are_finite = tf.while_loop(
            lambda index, *_: index < STEPS_PER_EPOCH, step, start
        )
        return values, first, second, total * (STEPS_PER_ITERATE / STEPS_PER_EPOCH), are_finite

    def _gradient(self, values: tf.Tensor, frozen: list[tf.Tensor], rows: Any, seed: tf.Tensor) -> tf.Tensor:
        """The gradient [D] of the loss of one data set."""
        model = self._model
        variables = model.trainable_variables
        sizes = [int(np.prod(variable.shape)) for variable in variables]
        parts = tf.split(values, sizes)
        own = [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
        size = tf.constant(float(tf.nest.flatten(rows)[0].shape[0]))
        batch = Batch(rows, None, size, size, seed)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(own)
            with keras.StatelessScope(list(zip([*variables, *self._frozen], [*own, *frozen], strict=True))):
                loss = model.batch_losses(batch, training=True)[0][0]
        gradients = tape.gradient(loss, own, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.concat([tf.reshape(each, [-1]) for each in gradients], axis=0)


def adam_change(
    adam: keras.optimizers.Adam, gradients: tf.Tensor, first: tf.Tensor, second: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What Keras's Adam subtracts for a learning rate of 1: Keras keeps one rate and one state for all data sets.

    Args:
        adam: the optimizer, of which the settings are taken.
        gradients: the gradients.
        first: the first moments before the step.
        second: the second moments before the step.
        count: the number of the step, from 1.

    Returns:
        The change, and the moments after the step.

    Reference: Kingma & Ba 2015, Adam, algorithm 1.
    """
    first = adam.beta_1 * first + (1.0 - adam.beta_1) * gradients
    second = adam.beta_2 * second + (1.0 - adam.beta_2) * gradients**2
    correction = tf.sqrt(1.0 - adam.beta_2**count) / (1.0 - adam.beta_1**count)
    return correction * first / (tf.sqrt(second) + adam.epsilon), first, second
