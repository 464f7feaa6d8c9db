"""A density estimator for tables."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from tfvae import checks
from tfvae.sklearn.estimator import VAEEstimator, noise_for
from tfvae.sklearn.members import Design


class VAEDensity(DensityMixin, VAEEstimator):
    """Estimates the density p(x) of a table of numbers by a VAE.

    log p(x) ~ log 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x),  z_s ~ q(z|x)

    The density is of X in its own units: log p(x) falls by log 10 for each column that is multiplied by 10. Densities
    of columns that are constant, or take few values, have no upper bound; compare models on the same X only.

    Args:
        latent_dim: the latent dimension; "auto" means 8, or D + 1 if that is less.
        hidden: the widths of the encoder's layers, which the decoder has in reverse; "auto" means (64, 64).
        num_samples: S, the number of draws of z for each row, the same noise for all rows.
        max_epochs: the most passes over the training data; "auto" means 3000 steps of 128 rows.
        random_state: a seed or a generator, as in scikit-learn.
        verbose: as for `keras.Model.fit`.

    Attributes:
        members_: the fitted VAE, as its design and weights; `vaes_` holds a `tfvae.VAE`.
        scaler_: the scikit-learn scaler that standardises the columns.
        n_features_in_: D.
        feature_names_in_: the names of the columns, if X was a data frame with names that are all strings.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8.
    """

    _steps = 3000
    # A density of one-hot columns means nothing.
    _instead_of_table = "for other columns take tfvae.VAE.of_table(table), whose evaluate gives log p(x) of rows"

    def __init__(
        self,
        *,
        latent_dim: int | Literal["auto"] = "auto",
        hidden: Sequence[int] | Literal["auto"] = "auto",
        num_samples: int = 100,
        max_epochs: int | Literal["auto"] = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.num_samples = num_samples
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.verbose = verbose

    def score_samples(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Estimates log p(x) by importance sampling.

        Args:
            X: the table [N, D].

        Returns:
            log p(x) [N], in nats per row; in expectation it is too low, the less the larger `num_samples` is.
        """
        rows = self._rows(X)
        return self.members_[0].terms(rows, self._noise).log_density - np.log(self.scaler_.scale_).sum()

    def score(self, X: ArrayLike, y: Any = None) -> float:  # noqa: N803
        """The mean of log p(x), by which `GridSearchCV` chooses.

        Args:
            X: the table [N, D].
            y: ignored.

        Returns:
            The mean over rows, in nats.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws rows from p(x).

        Args:
            n_samples: N, how many rows.
            random_state: a seed or a generator; None draws anew at each call.

        Returns:
            The rows [N, D], in the units of X.
        """
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        rows = self.members_[0].run(lambda vae: vae.generate(n_samples, seed=seed, sample=True))
        return self.scaler_.inverse_transform(rows.astype(np.float64))

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        return [(Design(columns, self._latent_dim(min(8, columns + 1)), self._hidden((64, 64))), 1.0)]

    def _check_arguments(self) -> None:
        super()._check_arguments()
        checks.positive_integer("num_samples", self.num_samples)

    def _fitted(self, rows: np.ndarray, random: np.random.RandomState) -> None:
        self._noise = noise_for(self.members_[0], self.num_samples, random)
