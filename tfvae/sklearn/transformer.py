"""A transformer that reduces the dimension of tables."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from tfvae.sklearn.estimator import VAEEstimator
from tfvae.sklearn.members import Design


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """Transforms a table to the means of q(z|x) of a VAE: fewer columns, from which the table can be rebuilt.

    A data frame may have columns of text, categories, bools and dates, and gaps: see `tfvae.data.Table`.

    Args:
        latent_dim: L, the number of columns that come out; "auto" means 2.
        hidden: the widths of the encoder's layers, which the decoder has in reverse; "auto" means (64, 64).
        max_epochs: the most passes over the training data; "auto" means 3000 steps of 128 rows.
        random_state: a seed or a generator, as in scikit-learn.
        verbose: as for `keras.Model.fit`.

    Attributes:
        members_: the fitted VAE, as its design and weights; `vaes_` holds a `tfvae.VAE`.
        scaler_: the scikit-learn scaler that standardises the columns; of a table it only centres bools and categories.
        table_: the `tfvae.data.Table` that was learned of a data frame with other columns than numbers, or with gaps;
            otherwise None.
        n_features_in_: D.
        feature_names_in_: the names of the columns, if X was a data frame with names that are all strings.
    """

    _steps = 3000

    def __init__(
        self,
        *,
        latent_dim: int | Literal["auto"] = "auto",
        hidden: Sequence[int] | Literal["auto"] = "auto",
        max_epochs: int | Literal["auto"] = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.verbose = verbose

    def transform(self, X: ArrayLike) -> np.ndarray:  # noqa: N803
        """Computes the means of q(z|x).

        Args:
            X: the table [N, D].

        Returns:
            The means [N, L].
        """
        rows = self._rows(X)
        return self.members_[0].means(self._complete(rows))

    def inverse_transform(self, X: ArrayLike) -> Any:  # noqa: N803
        """Computes the location of p(x|z).

        Args:
            X: latent variables z [N, L], as `transform` returns them.

        Returns:
            The rows [N, D], in the units of the table; a data frame if the estimator has a `table_`.
        """
        check_is_fitted(self)
        z = check_array(X, dtype=np.float64)
        rows = self.members_[0].run(lambda vae: vae.decode(z))
        rows = self.scaler_.inverse_transform(rows.astype(np.float64))
        return rows if self.table_ is None else self.table_.rows(self._features.x(rows))

    @property
    def _n_features_out(self) -> int:
        """L, from which scikit-learn makes the names of the columns."""
        return self.members_[0].design.latent_dim

    def _designs(self, columns: int) -> list[tuple[Design, float]]:
        return [(Design(columns, self._latent_dim(2), self._hidden((64, 64))), 1.0)]
