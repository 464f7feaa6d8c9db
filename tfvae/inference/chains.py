"""Draws from a posterior by several Markov chains, and whether the chains agree."""

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import xarray

# Above this R-hat, the chains do not agree; with fewer effective draws for each chain, R-hat itself is not to be
# trusted (Vehtari et al. 2021, section 4).
R_HAT_LIMIT = 1.01
FEWEST_EFFECTIVE = 100.0
# The share of steps that may diverge.
_FEW = 0.005


@dataclasses.dataclass(frozen=True, repr=False)
class Chains(Mapping[str, np.ndarray]):
    """Draws of the latent variables from several Markov chains, by name: `chains["mu"]` is [C * S, ...].

    All draws have the same weight, and the chains follow each other. C chains, S draws of each.

    Args:
        by_chain: the draws by name, each [C, S, ...].
        num_divergences: the number of steps, of all C * S, at which the energy of NUTS diverged.

    Reference: Vehtari et al. 2021, Rank-Normalization, Folding, and Localization: An Improved R-hat, sections 3 and 4.
    """

    by_chain: dict[str, np.ndarray]
    num_divergences: int = 0

    def __repr__(self) -> str:
        """The shapes of the draws, and whether the chains agree."""
        shapes = ", ".join(f"{name}: {list(values.shape)}" for name, values in self.by_chain.items())
        return f"Chains({shapes}; r_hat={_most(self.r_hat):.3f}, ess={-_most(self.ess, -1.0):.0f})"

    def __getitem__(self, name: str) -> np.ndarray:
        values = self.by_chain[name]
        return values.reshape(-1, *values.shape[2:])

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_chain)

    def __len__(self) -> int:
        return len(self.by_chain)

    @functools.cached_property
    def r_hat(self) -> dict[str, np.ndarray]:
        """The rank-normalised R-hat of each latent variable by name, each [...]: near 1 where all chains agree."""
        return self._of_each("rhat")

    @functools.cached_property
    def ess(self) -> dict[str, np.ndarray]:
        """The bulk effective sample size of each latent variable by name, each [...], of all chains together."""
        return self._of_each("ess")

    def warn_where_apart(self) -> None:
        """Warns if the chains do not agree, move too little, or diverge."""
        apart = [name for name, values in self.r_hat.items() if not np.all(values <= R_HAT_LIMIT)]
        num_chains, num_samples = next(iter(self.by_chain.values())).shape[:2]
        fewest, steps = FEWEST_EFFECTIVE * num_chains, num_chains * num_samples
        few = [name for name, values in self.ess.items() if not np.all(values >= fewest)]
        if apart:
            warnings.warn(
                f"The chains do not agree on {', '.join(apart)}: R-hat is up to {_most(self.r_hat):.3g}, above "
                f"{R_HAT_LIMIT}. The posterior may have several modes, between which the chains do not move; or they "
                "are too short: increase `num_samples` and `num_warm_up`, or take other coordinates for the model "
                "(non-centred, logarithms).",
                stacklevel=3,
            )
        elif few:
            warnings.warn(
                f"The draws of {', '.join(few)} are worth only {-_most(self.ess, -1.0):.0f} independent ones, fewer "
                f"than {fewest:.0f}: increase `num_samples`.",
                stacklevel=3,
            )
        if self.num_divergences > _FEW * steps:
            warnings.warn(
                f"{self.num_divergences} of {steps} steps diverged: the chains may miss a part of the posterior where "
                "its curvature is high, as the neck of a funnel. Start from a flow "
                "(`posterior=tfvae.posteriors.CouplingFlow()`), or take other coordinates for the model (non-centred).",
                stacklevel=3,
            )

    def expectation(self, function: Callable[[dict[str, np.ndarray]], np.ndarray]) -> np.ndarray:
        """Estimates the posterior mean of a function of the latent variables.

        Args:
            function: maps the draws by name, each [C * S, ...], to values [C * S, ...].

        Returns:
            The mean [...].
        """
        return np.mean(np.asarray(function(dict(self)), float), axis=0)

    def summary(self) -> "pandas.DataFrame":
        """Summarises the posterior in a table with one row for each element of each latent variable.

        Returns:
            The columns `mean`, `sd`, `5%`, `50%` and `95%` (quantiles), `mcse_mean` (the Monte Carlo standard error of
            the mean), `ess` and `r_hat`.
        """
        import pandas

        rows = {}
        for name in self:
            values = self[name].astype(float)
            quantiles = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
            columns = {"mean": values.mean(axis=0), "sd": values.std(axis=0)}
            columns |= dict(zip(("5%", "50%", "95%"), quantiles, strict=True))
            columns |= {"mcse_mean": columns["sd"] / np.sqrt(self.ess[name])}
            columns |= {"ess": self.ess[name], "r_hat": self.r_hat[name]}
            for index in np.ndindex(values.shape[1:]):
                label = f"{name}[{', '.join(map(str, index))}]" if index else name
                rows[label] = {column: float(each[index]) for column, each in columns.items()}
        return pandas.DataFrame.from_dict(rows, orient="index")

    def to_arviz(self) -> "xarray.DataTree":
        """Converts the draws to ArviZ's tree, with an axis of chains.

        Raises:
            ImportError: `arviz_base` is not installed.
        """
        arviz_base = importlib.import_module("arviz_base")
        return arviz_base.from_dict({"posterior": self.by_chain}, attrs={"/": {"inference_library": "tfvae"}})

    def _of_each(self, diagnostic: str) -> dict[str, np.ndarray]:
        function = getattr(importlib.import_module("arviz_stats.base").array_stats, diagnostic)
        # Of chains that do not move R-hat is NaN or infinite, which counts as bad.
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {name: function(values, chain_axis=0, draw_axis=1) for name, values in self.by_chain.items()}
        return {name: np.asarray(values) for name, values in found.items()}


def _most(values: Mapping[str, Any], sign: float = 1.0) -> float:
    """The highest of values of any shapes, each multiplied by a sign; NaN if one of them is."""
    return float(np.max(np.concatenate([np.ravel(sign * each) for each in values.values()])))
