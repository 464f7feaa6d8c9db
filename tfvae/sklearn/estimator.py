"""What the estimators share: from X to standardised rows, the arguments, and the training of the VAEs."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tfvae import checks
from tfvae.models.vae import VAE
from tfvae.sklearn.members import BATCH_SIZE, Design, Member, train

# Rows beyond these change little, and take longer to train on than they are worth.
_MOST_ROWS = 100_000
# The share of the rows that is held out to stop the training; of fewer rows none are.
_HELD_OUT = 0.1
_FEWEST_TO_HOLD_OUT = 100
_MOST_HELD_OUT = 5_000
# Standardised values beyond this are as good as infinite, but must be finite in float32 when they are squared.
_FARTHEST = 1e6


class VAEEstimator(BaseEstimator):
    """The base of the estimators, whose subclasses define `_designs` and set their arguments as attributes."""

    latent_dim: Any
    hidden: Any
    max_epochs: Any
    random_state: Any
    verbose: int
    members_: list[Member]
    scaler_: StandardScaler
    n_features_in_: int
    _allows_missing = False
    # The most training steps that `max_epochs="auto"` allows; early stopping may end before.
    _steps: int
    # Whether rows are held out to stop the training.
    _stops_early = True

    def fit(self, X: ArrayLike, y: Any = None) -> Self:  # noqa: N803
        """Fits the VAEs.

        Args:
            X: the table [N, D], of at least 2 rows: an array or a data frame of numbers.
            y: ignored; scikit-learn's pipelines pass it.

        Returns:
            The estimator.

        Raises:
            ValueError: an argument is out of its range, or X is not a table of finite numbers.
        """
        self._check_arguments()
        rows = self._rows(X, reset=True)
        random = check_random_state(self.random_state)
        known = random.permutation(len(rows))[:_MOST_ROWS]
        holds_out = self._stops_early and len(known) >= _FEWEST_TO_HOLD_OUT
        held_out = min(int(_HELD_OUT * len(known)), _MOST_HELD_OUT) if holds_out else 0
        aside, trained = rows[known[:held_out]] if held_out else None, rows[known[held_out:]]
        steps = self._steps if self.max_epochs == "auto" else self.max_epochs * -(-len(trained) // BATCH_SIZE)
        self.members_ = [
            train(design, trained, aside, max(1, round(share * steps)), _seed(random), self.verbose)
            for design, share in self._designs(rows.shape[1])
        ]
        self._fitted(rows[known], random)
        return self

    @property
    def vaes_(self) -> list[VAE]:
        """The fitted VAEs, made anew at each call: `tfvae.VAE` of the standardised columns, `scaler_.transform(X)`."""
        check_is_fitted(self)
        return [member.vae() for member in self.members_]

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        """The designs of the VAEs for a number of columns, each with its share of the training steps."""
        raise NotImplementedError

    def _fitted(self, rows: np.ndarray, random: np.random.RandomState) -> None:
        """Sets the attributes that depend on the fitted VAEs, given the standardised rows that were used."""

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
        """The standardised rows [N, D], float32, that the VAEs take, of a table as the user gave it.

        Args:
            X: the table.
            reset: whether X is what the estimator is fitted on, whose columns set the standard.
        """
        x = self._values(X, reset)
        if reset:
            self.scaler_ = StandardScaler().fit(x)
        return self._standardised(x)

    def _values(self, X: ArrayLike, reset: bool = False) -> np.ndarray:  # noqa: N803
        """The numbers [N, D], float64, of a table as the user gave it: the only place that knows what X may be."""
        if not reset:
            check_is_fitted(self)
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

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        """The rows that the VAEs take, of what `_values` returns."""
        return np.clip(self.scaler_.transform(x), -_FARTHEST, _FARTHEST).astype(np.float32)


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
