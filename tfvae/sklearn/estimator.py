"""What the estimators share: from X to standardised rows, the arguments, and the training of the VAEs."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tfvae import checks
from tfvae.data.schema import frame_of
from tfvae.data.table import Table
from tfvae.models.vae import VAE
from tfvae.sklearn.features import Features, has_gaps, is_table
from tfvae.sklearn.members import BATCH_SIZE, Design, Member, train

# Rows beyond these change little, and take longer to train on than they are worth.
_MOST_ROWS = 100_000
# The share of the rows that is held out to stop the training; of fewer rows none are.
_HELD_OUT = 0.1
_FEWEST_TO_HOLD_OUT = 100
_MOST_HELD_OUT = 5_000
# Standardised values beyond this are as good as infinite, but must be finite in float32 when they are squared.
FARTHEST = 1e6


class VAEEstimator(BaseEstimator):
    """The base of the estimators, whose subclasses define `_designs` and set their arguments as attributes."""

    latent_dim: Any
    hidden: Any
    max_epochs: Any
    random_state: Any
    verbose: int
    members_: list[Member]
    scaler_: StandardScaler
    table_: Table | None
    n_features_in_: int
    _allows_missing = False
    # What to do with a data frame of other columns than numbers; None if the estimator takes it.
    _instead_of_table: ClassVar[str | None] = None
    # The most training steps that `max_epochs="auto"` allows; early stopping may end before.
    _steps: int
    # Whether rows are held out to stop the training.
    _stops_early = True

    def fit(self, X: ArrayLike, y: Any = None) -> Self:  # noqa: N803
        """Fits the VAEs.

        Args:
            X: the table [N, D], of at least 2 rows: an array, or a data frame. Where the estimator has `table_`, its
                columns may be of text, categories, bools and dates, and have gaps.
            y: ignored; scikit-learn's pipelines pass it.

        Returns:
            The estimator.

        Raises:
            ValueError: an argument is out of its range, or X is not a table of finite numbers, or of such columns.
        """
        self._check_arguments()
        rows = self._rows(X, reset=True)
        complete = self._complete(rows)
        random = check_random_state(self.random_state)
        known = random.permutation(len(rows))[:_MOST_ROWS]
        holds_out = self._stops_early and len(known) >= _FEWEST_TO_HOLD_OUT
        held_out = min(int(_HELD_OUT * len(known)), _MOST_HELD_OUT) if holds_out else 0
        aside, trained = complete[known[:held_out]] if held_out else None, complete[known[held_out:]]
        steps = self._steps if self.max_epochs == "auto" else self.max_epochs * -(-len(trained) // BATCH_SIZE)
        self.members_ = [
            train(design, trained, aside, max(1, round(share * steps)), _seed(random), self.verbose)
            for design, share in self._designs(rows.shape[1])
        ]
        self._fitted(rows[known], random)
        return self

    @property
    def vaes_(self) -> list[VAE]:
        """The fitted VAEs, made anew at each call: `tfvae.VAE` of the standardised columns, `scaler_.transform(X)`.

        With a `table_`, they are of the standardised features of its rows.
        """
        check_is_fitted(self)
        return [member.vae() for member in self.members_]

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        """The designs of the VAEs for a number of columns, each with its share of the training steps."""
        raise NotImplementedError

    def _fitted(self, rows: np.ndarray, random: np.random.RandomState) -> None:
        """Sets the attributes that depend on the fitted VAEs, given the standardised rows that were used.

        Those of a table may have NaN.
        """

    def _check_arguments(self) -> None:
        """Raises ValueError for an argument that is out of its range."""
        if self.latent_dim != "auto":
            checks.positive_integer("latent_dim", self.latent_dim)
        if self.max_epochs != "auto":
            checks.positive_integer("max_epochs", self.max_epochs)
        if self.hidden != "auto":
            if not isinstance(self.hidden, Sequence) or isinstance(self.hidden, str):
                raise ValueError(
                    '`hidden` must be "auto" or the widths of the layers, such as (64, 64). Received: '
                    f"hidden={checks.shown(self.hidden)}"
                )
            for width in self.hidden:
                checks.positive_integer("hidden", width)

    def _hidden(self, auto: tuple[int, ...]) -> tuple[int, ...]:
        return auto if self.hidden == "auto" else tuple(map(int, self.hidden))

    def _latent_dim(self, auto: int) -> int:
        return auto if self.latent_dim == "auto" else int(self.latent_dim)

    def _rows(self, X: ArrayLike, reset: bool = False) -> np.ndarray:  # noqa: N803
        """The standardised rows [N, F], float32, of a table as the user gave it, of which the VAEs take `_complete`.

        Args:
            X: the table.
            reset: whether X is what the estimator is fitted on, whose columns set the standard.
        """
        x = self._values(X, reset)
        if reset:
            self.scaler_ = StandardScaler().fit(x)
            if self.table_ is not None:
                # A rare category would be so large that it disturbs what the VAEs make of the other columns.
                self.scaler_.scale_[self._features.are_bits] = 1.0
        return self._standardised(x)

    def _values(self, X: ArrayLike, reset: bool = False) -> np.ndarray:  # noqa: N803
        """The numbers [N, F], float64, of a table as the user gave it: the only place that knows what X may be."""
        if reset:
            self._learn_table(X)
        else:
            check_is_fitted(self)
        if self.table_ is not None:
            return self._features_of(X, reset)
        finite: bool | Literal["allow-nan"] = "allow-nan" if self._allows_missing else True
        x = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite=finite, ensure_min_samples=2 if reset else 1
        )
        if reset and self._allows_missing and (empty := np.flatnonzero(np.isnan(x).all(axis=0))).size:
            raise ValueError(
                "`X` must have a value in each column. Received: X with no value in the columns "
                f"{checks.shown(empty.tolist())}"
            )
        return x

    def _learn_table(self, X: Any) -> None:  # noqa: N803
        self.table_ = None
        if self._instead_of_table is not None:
            if is_table(X):
                raise ValueError(
                    f"`X` must hold numbers alone: {self._instead_of_table}. Received: a data frame with columns of "
                    f"{checks.shown_names(sorted(set(map(str, frame_of(X).dtypes))))}"
                )
        elif is_table(X) or has_gaps(X):
            if len(X) < 2:
                raise ValueError(f"`X` must have at least 2 rows. Received: {len(X)}")
            self.table_ = Table.learn(X)
            self._features = Features(self.table_)

    def _features_of(self, X: Any, reset: bool) -> np.ndarray:  # noqa: N803
        if not checks.is_frame(X):
            raise ValueError(
                f"`X` must be a data frame, with the columns of the table that the {type(self).__name__} was fitted "
                f"on. Received: {checks.shown(X)}"
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        return self._features(frame_of(X))

    def _complete(self, rows: np.ndarray) -> np.ndarray:
        """The rows that the VAEs take, in which missing values of a table are the mean of their column."""
        return rows if self.table_ is None else np.nan_to_num(rows)

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        """The rows that the VAEs take, of what `_values` returns."""
        return np.clip(self.scaler_.transform(x), -FARTHEST, FARTHEST).astype(np.float32)


def _seed(random: np.random.RandomState) -> int:
    return int(random.randint(2**31 - 1))


def noise_for(member: Member, num_samples: int, random: np.random.RandomState) -> np.ndarray:
    """Noise from N(0, I) [S, L], the same for all rows, so that the score of a row depends on nothing else.

    Args:
        member: the VAE that it is for.
        num_samples: S.
        random: where it is drawn from.
    """
    half = random.standard_normal((-(-num_samples // 2), member.design.latent_dim))
    # Antithetic, so that the mean is exactly 0 where S is even.
    return np.concatenate([half, -half])[:num_samples].astype(np.float32)
