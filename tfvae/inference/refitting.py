"""One model of variational inference that is fitted to many data sets, by the same compiled steps."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import chunks
from tfvae.inference import observations
from tfvae.inference.enumeration import Enumerated
from tfvae.inference.latents import variables
from tfvae.inference.many_fits import Fitted, ManyFits
from tfvae.inference.structured_normal import StructuredNormal
from tfvae.inference.targets import FAILURES, target
from tfvae.inference.variational_inference import VariationalInference
from tfvae.posteriors.flow import FlowPosterior

# The most elements of the data sets that are fitted together: the steps evaluate each of them at 32 or more points.
_MOST_ELEMENTS = 2**14


class Refitting:
    """A copy of a model that begins anew with each data set. The model itself is left as it is.

    The observations of a pinned joint distribution become an argument of the copy, whose programs would otherwise have
    to be compiled for each data set.

    Args:
        inference: the model.

    Raises:
        ValueError: the model has `local`, or is a function that takes no data.
    """

    def __init__(self, inference: VariationalInference) -> None:
        if inference.local is not None:
            raise ValueError("`inference` must have no `local` to be fitted to many data sets. Received: one with it")
        own = {name: value for name, value in inference._given.items() if value is not None}
        self._pins = inference._joint.target.pins
        if self._pins is not None:
            own = {"latents": own["model"], **own, "model": _with_pins_as_data(own["model"])}
        # Keras would take the number of rows from the configuration; each data set has its own.
        config = {**inference.get_config(), "num_data": None, "own": list(own)}
        with inference.distribute_strategy.scope():
            self.model = VariationalInference.from_config(config, own)
        if self._pins is not None:
            # As for the pinned model, whose fit starts at draws of its prior.
            starts = inference._joint.target.starts
            self.model._joint.target = target(own["model"], own["latents"])._replace(starts=starts)
        self.model.compile_by_default()
        is_users = inference.compiled and inference.get_compile_config() != self.model.get_compile_config()
        if is_users:
            self.model.compile_from_config(inference.get_compile_config())
        self.model.build_optimizers()
        self._first: list[np.ndarray] | None = None
        is_other = isinstance(self.model.posterior, FlowPosterior | StructuredNormal)
        replicas = inference.distribute_strategy.num_replicas_in_sync
        self._is_plain = not (is_other or is_users or replicas > 1)
        self._many: Any = None
        self._shapes: Any = None

    def fits(
        self, data: Sequence[Any], seeds: Sequence[int], **arguments: Any
    ) -> Iterator[VariationalInference | ValueError]:
        """Fits the copy to each of several data sets as `inference.fit` would, from the beginning.

        Successive data sets of the same shapes are fitted together, unless there are arguments, the model was compiled
        in another way than by `fit`, q is a flow or has a structure, or TensorFlow cannot vectorise an operation of the
        density.

        Args:
            data: the data sets, each in the form given to `fit`, x or (x, y); for a pinned joint distribution, the
                observations by name.
            seeds: the seed of each fit.
            arguments: the other arguments of `fit`.

        Yields:
            For each data set the copy, which holds its q until the next; or the error of its fit.
        """
        given = [self._split(each) for each in data]
        while given:
            together = [] if arguments else self._fit_together(given, seeds)
            for index in range(max(1, len(together))):
                x, y = given[index]
                self._begin(seeds[index])
                try:
                    if together:
                        self._use(together[index], index)
                        self.model.__dict__["_data"] = (x, y)
                    else:
                        self.model.fit(x, y, **{"verbose": 0, **arguments})
                except ValueError as error:
                    yield error
                else:
                    yield self.model
            given, seeds = given[max(1, len(together)) :], seeds[max(1, len(together)) :]

    def _fit_together(self, given: Sequence[tuple[Any, Any]], seeds: Sequence[int]) -> list[Fitted | Exception]:
        """Fits the first data sets at once, as many as have the same shapes; none if that is not possible."""
        rows: list[Any] = []
        shapes, most = None, len(given) if self._is_plain else 0
        for (x, y), seed in zip(given, seeds, strict=True):
            if len(rows) >= most:
                break
            self._begin(seed)
            try:
                read = self.model._read(x, y, None)
            except ValueError:  # `fit` raises it again.
                break
            own = observations.first_rows(read.dataset, 1)
            own_shapes = tf.nest.map_structure(lambda part: (part.shape, part.dtype), own)
            if not read.whole or shapes not in (None, own_shapes):
                break
            shapes = own_shapes
            rows.append(own)
            size = sum(part.shape.num_elements() for part in tf.nest.flatten(own))
            most = min(most, chunks.rows_within(_MOST_ELEMENTS, size))
        if not rows or (len(rows) == 1 and shapes != self._shapes):
            # One alone is not worth another program.
            return []
        data = tf.nest.map_structure(lambda *parts: tf.stack(parts), *rows)
        if self._many is None or shapes != self._shapes:
            try:
                self._many, self._shapes = ManyFits(self.model, data), shapes
            except FAILURES:
                # The density was traced by itself before, so that it is an operation that cannot be vectorised.
                self._is_plain = False
                return []
        return self._many.fit(data, seeds)

    def _use(self, fitted: Fitted | Exception, index: int) -> None:
        if isinstance(fitted, Exception):
            raise fitted
        self._many.use(fitted, index)

    def _split(self, data: Any) -> tuple[Any, Any]:
        """A data set as the x and y of `fit`."""
        if self._pins is not None:
            return {name: np.asarray(data[name])[np.newaxis] for name in self._pins}, None
        return data if isinstance(data, tuple) and len(data) == 2 else (data, None)

    def _begin(self, seed: int) -> None:
        """Sets the copy to the state before its first `fit`."""
        model, state = self.model, self._state()
        if self._first is None:
            self._first = [keras.ops.convert_to_numpy(each) for each in state]
        for variable, value in zip(state, self._first, strict=True):
            variable.assign(value)
        model.begin_anew(seed)
        model.num_data = None

    def _state(self) -> list[Any]:
        return [*self.model.weights, *self.model.optimizer.variables]


def _with_pins_as_data(pinned: Any) -> Any:
    """A function of latent variables by name and of observations by name, each [1, ...], with their log densities."""
    is_enumerated = isinstance(pinned, Enumerated)
    names = list(pinned.observed if is_enumerated else pinned.pins)

    def log_joint(latents: dict[str, tf.Tensor], data: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        observed = {name: data[name][0] for name in names}
        model = pinned.with_observed(observed) if is_enumerated else pinned.distribution.experimental_pin(**observed)
        values = tf.nest.pack_sequence_as(model.dtype, [latents[name] for name in variables(model)])
        parts = model.unnormalized_log_prob_parts(values)
        return tf.add_n(tf.nest.flatten(parts.unpinned)), tf.add_n(tf.nest.flatten(parts.pinned))[:, tf.newaxis]

    return log_joint
