"""A detector of anomalies in tables: an ensemble of VAEs of different capacity."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from tfvae import checks, chunks
from tfvae.detection.decision import Decision
from tfvae.detection.thresholds import Threshold, chosen, threshold
from tfvae.sklearn.detector_model import DetectorModel
from tfvae.sklearn.estimator import VAEEstimator, noise_for
from tfvae.sklearn.members import Design, Terms

Criterion = Literal["elbo", "log_likelihood", "reconstruction_log_likelihood"]
_CRITERIA = Criterion.__args__  # type: ignore[attr-defined]

# So many rows, whose terms of each column are in memory together: 0.1 GB for 100 columns and four VAEs.
_ROWS_AT_A_TIME = 2**15
# With this weight of the KL divergence, hardly any information about a row passes through z.
_BETA_OF_COLUMNS = 5.0


class VAEOutlierDetector(OutlierMixin, VAEEstimator):
    """Detects anomalies: rows that VAEs, fitted on the table with its anomalies, give a low bound on log p(x).

    score(x) = sum over the VAEs m of w_m ELBO_m(x),  w_m proportional to 1 / sd of ELBO_m over X,  sum of w_m = 1

    The VAEs differ in capacity. The first learns hardly more than the distribution of each column, and sees values that
    are rare; a small one with one scale for all columns sees rows that are far from all others; a large one with a
    scale for each column sees rows that are unlike those nearby. The likelihood of these is Student's t, so that the
    anomalies among the training data change them less; but then a single wild value weighs little among many columns. A
    second large one, with the normal likelihood, sees it. The weights give each the same say, and the score is still in
    nats. The training is short, and does not stop early. At most 100,000 rows, drawn at random, are used in all.

    A data frame may have columns of text, categories, bools and dates, and gaps. What each column is, a
    `tfvae.data.Table` says; the VAEs are then of the standardised numbers, the bools and the one-hot categories that
    stand for it. A missing value is as likely as the average of its column, so that it adds nothing to the score.

    Args:
        n_estimators: the number of VAEs: one of each of the four kinds, and so on in turn.
        latent_dim: the latent dimension of all VAEs; "auto" means 2, and 16 for the large ones.
        hidden: the widths of the encoder's layers, which the decoder has in reverse; "auto" means (32,), and (128,) for
            the large ones.
        criterion: what is summed: "elbo"; "log_likelihood", the estimate of log p(x) by importance sampling; or
            "reconstruction_log_likelihood", E_q[log p(x|z)].
        contamination: the share of anomalies in the training data, in (0, 0.5], from which `offset_` follows.
        num_samples: the number of draws of z for each row, the same noise for all rows.
        max_epochs: the number of passes over the training data; "auto" means 1200 steps of 128 rows, and a quarter of
            either for VAEs of the first kind.
        random_state: a seed or a generator, as in scikit-learn.
        verbose: as for `keras.Model.fit`.

    Attributes:
        members_: the fitted VAEs, as designs and weights; `vaes_` are `tfvae.VAE`.
        weights_: w_m of each.
        scaler_: the scikit-learn scaler that standardises the columns; of a table it only centres bools and categories.
        offset_: `decision_function` is `score_samples` minus this.
        threshold_: the score -`score_samples`, in nats, above which a row is an anomaly: -`offset_`.
        typical_: what `contributions` are relative to: the mean over the training data of each of its columns [D + 1].
        table_: the `tfvae.data.Table` that was learned of a data frame with other columns than numbers, or with gaps;
            otherwise None.
        n_features_in_: D.
        feature_names_in_: the names of the columns, if X was a data frame with names that are all strings.
    """

    _steps = 1200
    # So few steps cannot overfit, and the anomalies among held-out rows, which stop it too early, made results worse.
    _stops_early = False

    def __init__(
        self,
        *,
        n_estimators: int = 4,
        latent_dim: int | Literal["auto"] = "auto",
        hidden: Sequence[int] | Literal["auto"] = "auto",
        criterion: Criterion = "elbo",
        contamination: float = 0.1,
        num_samples: int = 16,
        max_epochs: int | Literal["auto"] = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.criterion = criterion
        self.contamination = contamination
        self.num_samples = num_samples
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.verbose = verbose

    def score_samples(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """How normal rows are.

        Args:
            X: the table [N, D].

        Returns:
            The weighted mean of the VAEs' scores [N], in nats for standardised columns; higher is more normal.
        """
        rows = self._rows(X)
        parts = (rows[part] for part in chunks.slices(len(rows), _ROWS_AT_A_TIME))
        return np.concatenate([self._scores(self._terms(part)) for part in parts])

    def decision_function(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """The score of rows above the threshold.

        Args:
            X: the table [N, D].

        Returns:
            `score_samples` minus `offset_` [N], in nats; negative for anomalies.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Whether rows are normal.

        Args:
            X: the table [N, D].

        Returns:
            -1 for anomalies and 1 for the other rows [N].
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def contributions(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """How much each column adds to the anomaly score of rows, beyond what it adds to that of an average row.

        Args:
            X: the table [N, D].

        Returns:
            Nats [N, D + 1], positive where a column is less likely than in an average row of the training data. The
            last column is the KL divergence, what the latent variables of the row cost; with
            criterion="log_likelihood" it is whatever the bound falls short. A row sums to -`score_samples` minus the
            sum of `typical_`.
        """
        return self._by_column(self._contributions(self._rows(X)))

    def to_model(self) -> DetectorModel:
        """The detector as a Keras model that `tfvae.export` takes, with the scaler, the VAEs and the threshold inside.

        Its exports take raw rows, and have the signature `detect`: see `DetectorModel.detect`.

        Returns:
            The model, of the detector as it is now.
        """
        check_is_fitted(self)
        return DetectorModel(self)

    @property
    def decision(self) -> Decision:
        """What is typical of the parts of the score, and the threshold of a score that is 0 for an average row."""
        check_is_fitted(self)
        limit = dataclasses.replace(self._threshold, value=self.threshold_ - float(self._typical.sum()))
        return Decision(self._typical[:-1], float(self._typical[-1]), limit)

    def set_threshold(
        self,
        X: ArrayLike,  # noqa: N803
        *,
        false_alarm_rate: float | None = None,
        tail: float | None = None,
    ) -> Threshold:
        """Sets `threshold_` and `offset_` by rows without anomalies, instead of by `contamination`.

        One of the rates is given; `tfvae.detection.threshold` says which suits what.

        Args:
            X: the table [N, D], of rows that the detector was not fitted on.
            false_alarm_rate: the share of rows without anomalies that may be above the threshold.
            tail: as `false_alarm_rate`, for rates below 1 / N.

        Returns:
            The threshold, with what it rests on.

        Raises:
            ValueError: not exactly one rate is given, it is out of its range, or X is invalid.

        Warns:
            UserWarning: X has too few rows for the rate.
        """
        name, rate = chosen(false_alarm_rate=false_alarm_rate, tail=tail)
        rates: dict[str, float] = {name: rate}
        found = threshold(-self.score_samples(X), **rates)
        self._set_threshold(found)
        return found

    def _set_threshold(self, found: Threshold) -> None:
        self._threshold = found
        self.threshold_ = found.value
        self.offset_ = -found.value

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        few, many = self._latent_dim(2), self._latent_dim(16)
        small, large = self._hidden((32,)), self._hidden((128,))
        kinds = [
            (Design(columns, few, small, "per_dimension", beta=_BETA_OF_COLUMNS), 0.25),
            (Design(columns, few, small, "learned"), 1.0),
            (Design(columns, many, large, "per_dimension"), 1.0),
            (Design(columns, many, large, "per_dimension", is_normal=True), 1.0),
        ]
        return [kinds[number % len(kinds)] for number in range(self.n_estimators)]

    def _check_arguments(self) -> None:
        super()._check_arguments()
        checks.positive_integer("n_estimators", self.n_estimators)
        checks.positive_integer("num_samples", self.num_samples)
        contamination = checks.number("contamination", self.contamination)
        if not 0 < contamination <= 0.5:
            raise ValueError(
                f"`contamination` must be in the interval (0, 0.5]. Received: contamination={self.contamination}"
            )
        if self.criterion not in _CRITERIA:
            names = ", ".join(f'"{name}"' for name in _CRITERIA)
            raise ValueError(f"`criterion` must be one of {names}. Received: criterion={checks.shown(self.criterion)}")

    def _fitted(self, rows: np.ndarray, random: np.random.RandomState) -> None:
        self._noise = [noise_for(member, self.num_samples, random) for member in self.members_]
        # What an observed value costs each VAE on average, for the features of a table, whose values may be missing.
        self._expected: list[np.ndarray] = []
        if self.table_ is not None:
            observed = ~np.isnan(rows)
            number = np.maximum(observed.sum(axis=0), 1)
            self._expected = [
                each.log_likelihood.sum(axis=0, where=observed) / number
                for each in self._evaluated(self._complete(rows))
            ]
        terms = self._terms(rows)
        spread = np.array([self._score(each).std() for each in terms])
        # Without spread, as of rows that are all equal, no VAE has more to say than another.
        precision = 1 / spread if (spread > 0).all() else np.ones(len(spread))
        self.weights_ = precision / precision.sum()
        self._typical = self._parts(terms).mean(axis=0)
        self.typical_ = self._by_column(self._typical[np.newaxis])[0]
        self._set_threshold(threshold(-self._scores(terms), contamination=self.contamination))

    def _terms(self, rows: np.ndarray) -> list[Terms]:
        check_is_fitted(self)
        if self.table_ is None:
            return self._evaluated(rows)
        terms = self._evaluated(self._complete(rows))
        is_missing = np.isnan(rows)
        return [each.with_expected(is_missing, mean) for each, mean in zip(terms, self._expected, strict=True)]

    def _evaluated(self, rows: np.ndarray) -> list[Terms]:
        return [member.terms(rows, noise) for member, noise in zip(self.members_, self._noise, strict=True)]

    def _score(self, terms: Terms) -> np.ndarray:
        """The score [N] of one VAE."""
        if self.criterion == "log_likelihood":
            return terms.log_density
        return terms.elbo if self.criterion == "elbo" else terms.log_likelihood.sum(axis=1)

    def _scores(self, terms: list[Terms]) -> np.ndarray:
        """The weighted mean of the VAEs' scores [N]."""
        return sum(weight * self._score(each) for weight, each in zip(self.weights_, terms, strict=True))

    def _contributions(self, rows: np.ndarray) -> np.ndarray:
        """What the columns, or those of a table's x, and then the rest add to the scores of rows, [N, C + 1]."""
        contributions = self._parts(self._terms(rows)) - self._typical
        if self.table_ is not None:
            # Exactly 0, not but for rounding, and not -0.
            is_observed = ~np.isnan(rows) @ self._features.owners > 0
            contributions[:, :-1] = np.where(is_observed, contributions[:, :-1], 0.0)
        return contributions

    def _by_column(self, parts: np.ndarray) -> np.ndarray:
        """Sums what is of the columns of a table's x, and the rest, [N, C + 1] over those of each column [N, D + 1]."""
        if self.table_ is None:
            return parts
        return np.concatenate([self._features.by_column(parts[:, :-1]), parts[:, -1:]], axis=1)

    def _parts(self, terms: list[Terms]) -> np.ndarray:
        """The parts [N, C + 1] of the negative scores: those of the columns, or of a table's x, then the rest."""
        columns = -sum(weight * each.log_likelihood for weight, each in zip(self.weights_, terms, strict=True))
        rest = -self._scores(terms) - columns.sum(axis=1)
        if self.table_ is not None:
            columns = columns @ self._features.owners
        return np.concatenate([columns, rest[:, np.newaxis]], axis=1)
