"""One model of variational inference that is fitted to one data set after another, by the same compiled steps."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae.inference.enumeration import Enumerated
from tfvae.inference.latents import variables
from tfvae.inference.targets import target
from tfvae.inference.variational_inference import VariationalInference


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
        if inference.compiled:
            self.model.compile_from_config(inference.get_compile_config())
            self.model.build_optimizers()
        self._first: list[np.ndarray] | None = None

    def fit(self, data: Any, seed: int, **arguments: Any) -> VariationalInference:
        """Fits the copy to a data set as `inference.fit` would, from the beginning.

        Args:
            data: the data in the form given to `fit`, x or (x, y); for a pinned joint distribution, the observations
                by name.
            seed: the seed of the fit.
            arguments: the other arguments of `fit`.

        Returns:
            The copy, which holds q of this data set until the next.
        """
        model = self.model
        if self._pins is not None:
            x, y = {name: np.asarray(data[name])[np.newaxis] for name in self._pins}, None
        else:
            x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
        state = self._state()
        if self._first is None:
            self._first = [keras.ops.convert_to_numpy(each) for each in state]
        for variable, value in zip(state, self._first, strict=False):
            variable.assign(value)
        for variable in state[len(self._first) :]:
            # Of the Adam that the first `fit` made, whose moments begin at 0.
            if variable is not model.optimizer.learning_rate:
                variable.assign(tf.zeros_like(variable))
        model.begin_anew(seed)
        model.num_data = None
        model.fit(x, y, verbose=0, **arguments)
        return model

    def _state(self) -> list[Any]:
        return [*self.model.weights, *(self.model.optimizer.variables if self.model.compiled else [])]


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
