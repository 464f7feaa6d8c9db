"""Rows of a table with text, dates and gaps as numbers, which the VAEs of the estimators take, and back again."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, networks
from tfvae.data.columns import BINARY, CATEGORY, COUNT
from tfvae.data.table import Table
from tfvae.numerics import is_number

# The most rows that are converted at a time.
_MOST_ROWS = 65_536


def is_table(X: Any) -> bool:  # noqa: N803
    """Whether X is a data frame with a column of other values than numbers and bools."""
    if not checks.is_frame(X):
        return False
    if hasattr(X, "iloc"):
        import pandas as pd

        return not all(pd.api.types.is_numeric_dtype(dtype) for dtype in X.dtypes)
    return np.asarray(X).dtype.kind not in "biuf"


def has_gaps(X: Any) -> bool:  # noqa: N803
    """Whether X is a data frame of numbers and bools of which some are missing."""
    if not checks.is_frame(X):
        return False
    return bool(X.isna().to_numpy().any() if hasattr(X, "iloc") else np.isnan(np.asarray(X)).any())


class Features:
    """The numbers [N, F] that stand for the rows of a table.

    A number is one, transformed, and so are a bool, 0 or 1, and a count, log(1 + x); a category is as many as there are
    categories, 1 for its own and 0 for the others. A date has several. What a missing value stands for is NaN.

    Args:
        table: what the columns are.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        parts = table.parts
        moments = [
            (part.transform["mean"], part.transform["stddev"]) if part.content == COUNT and part.transform else None
            for part in parts
        ]
        self._moments = moments
        self._num_classes = [part.num_classes for part in parts]
        # The order of `networks.RowFeatures`.
        numeric = [column for column, part in enumerate(parts) if not part.num_classes]
        numeric.sort(key=lambda column: moments[column] is not None)
        self._numeric = len(numeric)
        # For each feature, the column of x that it is of.
        self._parts = [*numeric, *(column for column, part in enumerate(parts) for _ in range(part.num_classes))]

    @property
    def are_bits(self) -> np.ndarray:
        """Which features are 0 or 1, bool [F]."""
        return np.array([self.table.parts[part].content in (BINARY, CATEGORY) for part in self._parts])

    @property
    def owners(self) -> np.ndarray:
        """Which feature is of which column of x [F, C], 1 or 0."""
        return np.eye(len(self.table.parts))[self._parts]

    def by_column(self, of_x: np.ndarray) -> np.ndarray:
        """Sums what is of the columns of x [N, C] over those of each column of the table [N, D]; 0 for unused ones."""
        names = [column.name for column in self.table.columns]
        return of_x @ np.eye(len(names))[[names.index(owner) for owner in self.table.owners()]]

    def __call__(self, rows: Any) -> np.ndarray:
        """The features [N, F], float64, with NaN for missing values, of a data frame."""
        return self.of_codes(self.table.codes(rows))

    def of_codes(self, codes: np.ndarray) -> np.ndarray:
        """The features [N, F], float64, with NaN for missing values, of numbers and codes [N, D]."""
        parts = []
        for part in chunks.slices(len(codes), _MOST_ROWS):
            x = self.table.from_codes(codes[part])
            features, is_observed = (each.numpy() for each in self.in_graph(tf.constant(x)))
            parts.append(np.where(is_observed, features, np.nan))
        return np.concatenate(parts).astype(np.float64)

    def in_graph(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The features [B, F] of x [B, D] of the table, and which of them are observed, as tensors."""
        made = networks.RowFeatures(self._num_classes, self._moments)(x)
        # Between numbers and codes it has which of the numbers are observed.
        features = tf.concat([made[:, : self._numeric], made[:, 2 * self._numeric :]], axis=1)
        observed = tf.gather(tf.cast(is_number(x), tf.float32), self._parts, axis=1)
        return features, observed > 0.5

    def x(self, features: np.ndarray) -> np.ndarray:
        """The x [N, D] of the table whose features [N, F] are the closest."""
        x = np.empty([len(features), len(self.table.parts)])
        parts = np.array(self._parts)
        for column, part in enumerate(self.table.parts):
            own = features[:, parts == column]
            if part.num_classes:
                x[:, column] = own.argmax(axis=1)
                continue
            x[:, column] = own[:, 0]
            if part.content == BINARY:
                x[:, column] = own[:, 0] >= 0.5
            elif (moments := self._moments[column]) is not None:
                mean, stddev = moments
                largest = np.inf if part.range is None else part.range[1]
                x[:, column] = np.round(np.expm1(np.clip(own[:, 0] * stddev + mean, 0, np.log1p(largest))))
        return x
