"""A model whose files contain everything that its training needs to continue exactly."""

import importlib
import os
import pathlib
import random
from collections.abc import MutableMapping
from typing import Any

import keras
import tensorflow as tf

from tfvae import files, private_apis
from tfvae.distribute import replicas
from tfvae.training import resume


class StatefulModel(private_apis.HookedModel):
    """A Keras model that saves, with its weights, the state of its noise and the position of its training.

    Args:
        kwargs: the arguments of `keras.Model`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._progress = resume.Progress()
        # A weight, because Keras does not save a SeedGenerator, and resumed training would see different noise. The
        # first value comes from Python's own generator, which `keras.utils.set_random_seed` seeds.
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
        """The current epoch of training, counted from 0, and the number of steps that it has completed."""
        return self._progress.epoch, self._progress.step

    @property
    def noise_seed(self) -> int:
        """The seed from which all seeds of this model are derived."""
        return int(keras.ops.convert_to_numpy(self._noise_state)[0])

    def next_seed(self) -> tf.Tensor:
        """A new stateless seed, int32 [2]: different for each call and each replica, but the same in every run."""
        seed = tf.cast(self._noise_state.value, tf.int32)
        self._noise_state.assign_add([0, 1])
        return tf.random.experimental.stateless_fold_in(seed, replicas.index())

    def shared_seed(self) -> tf.Tensor:
        """A stateless seed, int32 [2], that differs from all of `next_seed`, and is the same on all replicas.

        It changes with each call of `next_seed`.
        """
        return tf.random.experimental.stateless_fold_in(tf.cast(self._noise_state.value, tf.int32), -1)

    def begin_anew(self, seed: int) -> None:
        """Lets the next `fit` be the first one of a model with this seed: its noise and its order of arrays.

        The weights and the state of the optimizer are the caller's to set.

        Args:
            seed: the seed from which all seeds of this model are derived.
        """
        self._noise_state.assign([seed, 0])
        self._progress.epoch = self._progress.step = self._progress.first_pass = 0
        self._progress.loaded = self._progress.holds_averages = False

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves the model's own weights, and what training needs to continue exactly."""
        super().save_own_variables(store)
        resume.save_state(self, self._progress, store)

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved.

        Raises:
            ValueError: it was saved by a different model.
        """
        super().load_own_variables({name: store[name] for name in store.keys() if name.isdecimal()})  # noqa: SIM118
        resume.load_state(self, self._progress, store)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the weights: `keras.Model.save_weights`, except that the file appears complete or not at all.

        Args:
            filepath: the file, ending in .weights.h5.
            overwrite: whether to replace an existing file without asking the user.
            kwargs: the other arguments of `keras.Model.save_weights`.
        """
        with files.replacing_local(filepath, ".weights.h5", overwrite) as path:
            if path == filepath or kwargs or not self.built:
                super().save_weights(path, overwrite, **kwargs)
            else:
                # HDF5 keeps what it could not write to a full disk, and crashes when the process ends.
                pathlib.Path(path).write_bytes(private_apis.weights_file(self))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments.

        Raises:
            ValueError: Keras is about to write them to an HDF5 file.
        """
        if private_apis.is_saving_hdf5():
            files.check_whole_model("a file that ends in .h5")
        return super().get_config()

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the model: `keras.Model.save`, except that a file appears complete or not at all.

        "hf://<namespace>/<name>" is a repository of the Hugging Face Hub, which is made if it is not there. The model
        gets a model card there, and `keras.saving.load_model` of the same text loads it where tfvae is imported. This
        needs tfvae[hub], and a login: the command `hf auth login`, or a token in the variable HF_TOKEN.

        Args:
            filepath: the file, ending in .keras; or a repository.
            overwrite: whether to replace an existing file without asking the user.
            kwargs: the other arguments of `keras.Model.save`; and `card`, a `tfvae.export.Card`, for a repository.

        Raises:
            ImportError: huggingface_hub is not installed.
            ValueError: the file is one in HDF5.
        """
        if str(filepath).startswith("hf://"):
            # By name, because a training must not depend on the exports.
            importlib.import_module("tfvae.export.hub").save(self, str(filepath), **kwargs)
            return
        files.check_whole_model(filepath)
        with files.replacing_local(filepath, ".keras", overwrite) as path:
            super().save(path, overwrite, **kwargs)
