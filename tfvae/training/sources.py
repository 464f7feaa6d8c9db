"""The data that a model takes: how an element of them is read, and what is checked before a method uses them."""

import abc
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.training.batch import check_weights, unpack
from tfvae.training.state import StatefulModel


class CheckingModel(StatefulModel, abc.ABC):
    """A model that checks data before it is trained, evaluated or called on them.

    Args:
        kwargs: the arguments of `keras.Model`.
    """

    @abc.abstractmethod
    def check_data(self, x: np.ndarray) -> None:
        """Builds the model for data like x if it is not built yet, and checks x.

        Args:
            x: one batch or all of the data, as the user passed it.

        Raises:
            ValueError: this model cannot be trained on x.
        """

    def check_training(self, batch: Any) -> None:
        """Checks, at the beginning of a training, whether data that are valid for this model are meant for it.

        Args:
            batch: one element of data as `fit` takes them.

        Raises:
            ValueError: they certainly are not. If they probably are not, there is a warning instead.
        """

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Returns x and the sample weights, or None in their place, from one element of the data passed to `fit`.

        Args:
            data: x, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

        Raises:
            ValueError: x does not have the structure that this model is trained on.
        """
        return unpack(data)

    def of_rows(self, data: Any) -> Any:
        """Converts rows of a table, if the model has one and the data are rows, to x; returns other data as they are.

        Args:
            data: what a user passed to a method, without y and weights.
        """
        return data

    def target(self, data: Any) -> Any:
        """Returns what the likelihood is of, from one element of the data passed to `fit`; None if it is of x itself.

        Args:
            data: as for `unpack`.
        """
        return None

    def check_batch(self, batch: Any, is_encoded_only: bool = False) -> None:
        """Checks one element of data as `fit` takes them: see `check_data`.

        Args:
            batch: the element.
            is_encoded_only: whether the likelihood of the data is not going to be computed.
        """
        self.check_data(tf.nest.map_structure(checks.to_numpy, self.unpack(batch)[0]))

    def check_source(self, batch: Any, data: Any, argument: str, is_encoded_only: bool = False) -> None:
        """Checks the first batch of the data passed to a method such as `fit`.

        Args:
            batch: the first batch, or all of the data if they are arrays; None if there is no batch.
            data: the data, as they were passed.
            argument: the name of the argument through which the data were passed.
            is_encoded_only: see `check_batch`.

        Raises:
            ValueError: this model cannot be trained on the data.
        """
        if batch is None:
            raise ValueError(f"`{argument}` must hold at least one batch. Received: {checks.shown(data)}")
        try:
            check_weights(*self.unpack(batch))
            self.check_batch(batch, is_encoded_only)
        except ValueError as error:
            if argument == "x":
                raise
            raise ValueError(f"`{argument}`: {error}") from error

        if isinstance(data, tf.data.Dataset):
            found, expected = (self.target(each) is not None for each in (batch, data.element_spec))
            if found != expected:
                raise ValueError(
                    f"`{argument}` must be a dataset that knows the shapes of x and y, which say whether y is x "
                    "without noise: give it an output_signature, or map tf.ensure_shape over it. Received: a "
                    f"dataset of {checks.shown(data.element_spec)}"
                )
