"""An imputer for tables with missing values."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags

from tfvae import checks
from tfvae.models.imputation import impute
from tfvae.sklearn.estimator import VAEEstimator
from tfvae.sklearn.members import Design


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """Fills in missing values, marked by NaN, with their mean given the observed values of the row, by a VAE.

    The VAE is trained on the observed values alone, with the bound of the MIWAE; `tfvae.impute` fills the gaps. The
    values differ a little with the rows that are filled together, as the draws of z do.

    Args:
        latent_dim: the latent dimension; "auto" means 8.
        hidden: the widths of the encoder's layers, which the decoder has in reverse; "auto" means (64, 64).
        num_samples: the number of draws of z for each row with gaps.
        max_epochs: the most passes over the training data; "auto" means 1500 steps of 128 rows.
        random_state: a seed or a generator, as in scikit-learn.
        verbose: as for `keras.Model.fit`.

    Attributes:
        members_: the fitted VAE, as its design and weights; `vaes_` holds a `tfvae.VAE`.
        scaler_: the scikit-learn scaler that standardises the columns.
        n_features_in_: D.
        feature_names_in_: the names of the columns, if X was a data frame with names that are all strings.

    Reference: Mattei & Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
    """

    _allows_missing = True
    _steps = 1500
    _instead_of_table = "for other columns take tfvae.impute(vae, X), with a model of tfvae.VAE.of_table(table)"

    def __init__(
        self,
        *,
        latent_dim: int | Literal["auto"] = "auto",
        hidden: Sequence[int] | Literal["auto"] = "auto",
        num_samples: int = 1000,
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

    def transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Fills in the missing values.

        Args:
            X: the table [N, D], with NaN for missing values.

        Returns:
            The table [N, D] without gaps; observed values are unchanged.
        """
        x = self._values(X).copy()
        has_gaps = np.isnan(x).any(axis=1)
        if has_gaps.any():
            rows, gaps = self._standardised(x[has_gaps]), np.isnan(x[has_gaps])
            filled = self.members_[0].run(lambda vae: impute(vae, rows, self.num_samples, seed=self._seed))
            x[has_gaps] = np.where(gaps, self.scaler_.inverse_transform(filled.astype(np.float64)), x[has_gaps])
        return x

    def __sklearn_tags__(self) -> Tags:
        """scikit-learn's description of the estimator: it takes NaN."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        return [
            (Design(columns, self._latent_dim(8), self._hidden((64, 64)), allows_missing=True, num_samples=20), 1.0)
        ]

    def _check_arguments(self) -> None:
        super()._check_arguments()
        checks.positive_integer("num_samples", self.num_samples)

    def _fitted(self, rows: np.ndarray, random: np.random.RandomState) -> None:
        self._seed = int(random.randint(2**31 - 1))
