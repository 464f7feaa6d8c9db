"""The likelihood of tables whose columns need different likelihoods, such as numbers beside categories."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.likelihoods import elements
from tfvae.likelihoods.likelihood import PACKAGE, Group, Likelihood, configuration_of, likelihood_of

tfd = tfp.distributions

_Column = Sequence[Likelihood | dict[str, Any] | int]


@keras.saving.register_keras_serializable(PACKAGE)
class Columns(Likelihood):
    """The likelihood of x [B, ..., D] whose D columns, on the last axis, have different likelihoods.

    log p(x|z) = sum over the groups of columns of log p_group(x_group|z)

    The decoder's output holds the parameters of the groups one after the other on its last axis, whose length is
    `parameter_shape((D,))[-1]`. The mean is laid out likewise, with C probabilities in the place of each `Categorical`
    column; `to_data` turns it into D columns again.

    Args:
        columns: the groups of neighbouring columns, from the first to the last, each a pair of a likelihood (or its
            configuration) and a number of columns. Either a sequence of pairs, or a dictionary from names, which error
            messages then show, to pairs.
        names: the name of each single column, in the place of the names of the groups; None means that it has none.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `columns` is not of this form, or holds a likelihood that cannot be part of it.

    Reference: Nazabal et al. 2020, Handling incomplete heterogeneous data using VAEs.
    """

    def __init__(
        self,
        columns: Sequence[_Column] | Mapping[str, _Column],
        names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = columns.values() if isinstance(columns, Mapping) else columns
        groups = list(given) if isinstance(columns, Mapping | Sequence) else []
        if not groups or not all(isinstance(group, Sequence) and len(group) == 2 for group in groups):
            raise ValueError(
                "`columns` must be pairs of a likelihood and a number of columns, in a sequence or by name in a "
                f"dictionary. Received: columns={checks.shown(columns)}"
            )
        self._names = tuple(columns) if isinstance(columns, Mapping) else None
        self.likelihoods = [likelihood_of(likelihood, "columns") for likelihood, _ in groups]
        if len({id(likelihood) for likelihood in self.likelihoods}) < len(groups):
            # The weights of a likelihood have the shape of one group.
            raise ValueError(
                "`columns` must have a separate likelihood for each group. Received: one likelihood more than once, in "
                f"{checks.shown(self.likelihoods)}"
            )
        self._widths = tuple(checks.positive_integer("columns", width) for _, width in groups)
        self._column_names = None if names is None else tuple(map(str, names))
        if self._column_names is not None and len(self._column_names) != sum(self._widths):
            raise ValueError(
                f"`names` must be those of {sum(self._widths)} columns. Received: names={checks.shown(names)}"
            )
        for likelihood in self.likelihoods:
            if likelihood.allows_missing or isinstance(likelihood, Columns):
                raise ValueError(
                    "`columns` must hold neither a Columns nor a likelihood that allows missing values; for these wrap "
                    f"the whole, as in Missing(Columns(...)). Received: {checks.shown(likelihood)}"
                )

    @property
    def placeholder(self) -> np.ndarray:
        """A valid value for each column [D]."""
        return np.repeat([likelihood.placeholder for likelihood in self.likelihoods], self._widths)

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The names of the columns; those of a group of several are numbered."""
        if self._column_names is not None or self._names is None:
            return self._column_names
        groups = zip(self._names, self._widths, strict=True)
        return tuple(
            name if width == 1 else f"{name}_{number + 1}" for name, width in groups for number in range(width)
        )

    def parameter_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the decoder's output must have for each example.

        Raises:
            ValueError: the groups do not have as many columns as x.
        """
        if event_shape[-1] != sum(self._widths):
            raise ValueError(
                f"`columns` must describe the {event_shape[-1]} columns of x of shape {[None, *event_shape]}. "
                f"Received: groups with {sum(self._widths)} columns in all"
            )
        return (*event_shape[:-1], sum(self._parameter_widths()))

    def mean_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what `mean` returns for each example."""
        return (*event_shape[:-1], sum(self._mean_widths()))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the likelihood of each group."""
        super().build(input_shape)
        self._event_shape = (*self._event_shape[:-1], sum(self._widths))
        for likelihood, width in zip(self.likelihoods, self._parameter_widths(), strict=True):
            if not likelihood.built:
                likelihood.build((*input_shape[:-1], width))

    def element_distribution(self, parameters: tf.Tensor) -> tfd.Distribution:
        """The distribution of each element."""
        parts = [likelihood.element_distribution(part) for likelihood, part in self._groups(parameters)]

        def sample(n: Any, seed: Any) -> tf.Tensor:
            seeds = tfp.random.split_seed(seed, n=len(parts))
            draws = [tf.cast(part.sample(n, seed=s), tf.float32) for part, s in zip(parts, seeds, strict=True)]
            return tf.concat(draws, axis=-1)

        def log_prob(x: tf.Tensor) -> tf.Tensor:
            groups = zip(parts, tf.split(x, self._widths, axis=-1), strict=True)
            return tf.concat([part.log_prob(group) for part, group in groups], axis=-1)

        shape = tf.concat([tf.shape(parameters)[:-1], [sum(self._widths)]], axis=0)
        static_shape = parameters.shape[:-1].concatenate(sum(self._widths))
        return elements.distribution(
            shape, static_shape, sample, log_prob, lambda: tf.concat([p.mean() for p in parts], axis=-1)
        )

    def element_log_prob(self, x: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """The log-density of each element: see `Likelihood`."""
        groups = zip(self._groups(parameters), tf.split(x, self._widths, axis=-1), strict=True)
        return tf.concat([likelihood.element_log_prob(x, part) for (likelihood, part), x in groups], axis=-1)

    def element_log_prob_in_training(
        self, x: tf.Tensor, parameters: tf.Tensor, is_observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The log-density of each element in a training step: see `Likelihood`."""
        is_observed = tf.ones_like(x, tf.bool) if is_observed is None else is_observed
        parts = (tf.split(tensor, self._widths, axis=-1) for tensor in (x, is_observed))
        log_probs = [
            likelihood.element_log_prob_in_training(x, part, observed)
            for (likelihood, part), x, observed in zip(self._groups(parameters), *parts, strict=True)
        ]
        return tf.concat(log_probs, axis=-1)

    @property
    def samples_from_noise(self) -> bool:
        """Whether `sample_from` is defined, as it is if all groups define it: see `Likelihood`."""
        return all(likelihood.samples_from_noise for likelihood in self.likelihoods)

    def element_sample_from(self, parameters: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """A draw of each element: see `Likelihood`."""
        parts = (tf.split(noise, self._widths, axis=-1) for noise in (first, second))
        groups = zip(self._groups(parameters), *parts, strict=True)
        draws = [likelihood.element_sample_from(part, *noise) for (likelihood, part), *noise in groups]
        return tf.concat(draws, axis=-1)

    def mean(self, parameters: tf.Tensor) -> tf.Tensor:
        """The means of the groups, one after the other on the last axis; for a `Categorical` its probabilities.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        leading = tf.shape(parameters)[:-1]
        means = [
            tf.reshape(likelihood.mean(part), tf.concat([leading, [width]], axis=0))
            for (likelihood, part), width in zip(self._groups(parameters), self._mean_widths(), strict=True)
        ]
        return tf.concat(means, axis=-1)

    def best_guess(self, parameters: tf.Tensor) -> tf.Tensor:
        """The best guess of each column, one after the other: see `Likelihood`.

        Args:
            parameters: the decoder's output [..., *parameter_shape].
        """
        self._check_built()
        return tf.concat([likelihood.best_guess(part) for likelihood, part in self._groups(parameters)], axis=-1)

    def to_data(self, mean: np.ndarray) -> np.ndarray:
        """Turns a mean into a value of x [..., *event_shape], with the most probable code in a `Categorical` column.

        Args:
            mean: what `mean` returns [..., *mean_shape].
        """
        parts = np.split(mean, np.cumsum(self._mean_widths())[:-1], axis=-1)
        columns = [
            likelihood.to_data(part.reshape(*part.shape[:-1], *likelihood.mean_shape((width,))))
            for likelihood, part, width in zip(self.likelihoods, parts, self._widths, strict=True)
        ]
        return np.concatenate(columns, axis=-1)

    def units_of_mean(
        self, offset: np.ndarray, scale: np.ndarray, event_shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The units of each number of the mean: see `Likelihood`."""
        columns = (
            np.split(np.broadcast_to(array, event_shape), np.cumsum(self._widths)[:-1], axis=-1)
            for array in (offset, scale)
        )
        groups: list[tuple[np.ndarray, ...]] = []
        for likelihood, *units in zip(self.likelihoods, *columns, strict=True):
            shape = likelihood.mean_shape(units[0].shape)
            of_group = likelihood.units_of_mean(units[0], units[1], units[0].shape)
            flat = (*event_shape[:-1], -1)
            groups.append(tuple(np.broadcast_to(array, shape).reshape(flat) for array in of_group))
        offsets, scales = (np.concatenate(arrays, axis=-1) for arrays in zip(*groups, strict=True))
        return offsets, scales

    def check(self, x: np.ndarray) -> None:
        """Raises ValueError, with the name of the column, when a column cannot come from its likelihood."""
        starts = np.cumsum([0, *self._widths])
        for number, likelihood in enumerate(self.likelihoods):
            group = range(starts[number], starts[number + 1])
            try:
                likelihood.check(x[..., group.start : group.stop])
            except ValueError:
                self._raise(x, number, group)
                raise

    def _raise(self, x: np.ndarray, number: int, group: range) -> None:
        """Raises the error of the first column that a group's likelihood refuses, with the column's name."""
        for column in group:
            try:
                self.likelihoods[number].check(x[..., column : column + 1])
            except ValueError as error:
                names = self.column_names
                name = "" if names is None else f' of "{names[column]}"'
                raise ValueError(f"Column {column} of x{name}: {error}") from error

    def groups(self, x: np.ndarray, outputs: np.ndarray) -> list[Group]:
        """The groups of columns: see `Likelihood`."""
        starts = np.cumsum([0, *self._widths])
        xs = np.split(x, starts[1:-1], axis=-1)
        parts = np.split(outputs, np.cumsum(self._parameter_widths())[:-1], axis=-1)
        names = [
            f"Columns {start} to {start + width - 1} of x" if width > 1 else f"Column {start} of x"
            for start, width in zip(starts[:-1], self._widths, strict=True)
        ]
        if self._names is not None:
            names = [f'{place} ("{name}")' for place, name in zip(names, self._names, strict=True)]
        elif self._column_names is not None:
            owned = (", ".join(self._column_names[a:b]) for a, b in itertools.pairwise(starts))
            names = [f"{place} ({own})" for place, own in zip(names, owned, strict=True)]
        groups = zip(names, self.likelihoods, xs, parts, strict=True)
        return [Group(f"{name}: ", likelihood, columns, part) for name, likelihood, columns, part in groups]

    def _groups(self, parameters: tf.Tensor) -> list[tuple[Likelihood, tf.Tensor]]:
        return list(zip(self.likelihoods, tf.split(parameters, self._parameter_widths(), axis=-1), strict=True))

    def _parameter_widths(self) -> list[int]:
        pairs = zip(self.likelihoods, self._widths, strict=True)
        return [likelihood.parameter_shape((width,))[-1] for likelihood, width in pairs]

    def _mean_widths(self) -> list[int]:
        pairs = zip(self.likelihoods, self._widths, strict=True)
        return [int(np.prod(likelihood.mean_shape((width,)))) for likelihood, width in pairs]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        pairs = zip(self.likelihoods, self._widths, strict=True)
        groups = [[configuration_of(likelihood), width] for likelihood, width in pairs]
        columns = groups if self._names is None else dict(zip(self._names, groups, strict=True))
        return {**super().get_config(), "columns": columns, "names": self._column_names}
