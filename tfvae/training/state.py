"""A model whose files hold all that its training needs to go on exactly."""

import os
import random
from collections.abc import MutableMapping
from typing import Any

import keras
import tensorflow as tf

from tfvae import files, private_apis
from tfvae.distribute import replicas
from tfvae.training import resume


class StatefulModel(private_apis.HookedModel):
    """A Keras model that keeps, with its weights, the state of its noise and where its training is.

    Args:
        kwargs: the arguments of `keras.Model`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._progress = resume.Progress()
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

    @property
    def progress(self) -> tuple[int, int]:
        """The epoch that training is in, from 0, and how many of its steps are done."""
        return self._progress.epoch, self._progress.step

    @property
    def noise_seed(self) -> int:
        """The seed that all seeds of this model come from."""
        return int(keras.ops.convert_to_numpy(self._noise_state)[0])

    def next_seed(self) -> tf.Tensor:
        """A new stateless seed, int32 [2]: another one at each call and on each replica, the same in each run."""
        seed = tf.cast(self._noise_state.value, tf.int32)
        self._noise_state.assign_add([0, 1])
        return tf.random.experimental.stateless_fold_in(seed, replicas.index())

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves, beside the model's own weights, what training needs to go on exactly."""
        super().save_own_variables(store)
        resume.save_state(self, self._progress, store)

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
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
