"""How well amortised inference recovers latent variables that are known, because the data were simulated from them."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from tfvae import checks

if TYPE_CHECKING:
    import pandas

# The probability of the central interval whose coverage is reported.
_INTERVAL = 0.9
# As many classes of ranks for the test of uniformity, if there are enough data sets.
_MOST_CLASSES, _FEWEST_OF_CLASS = 20, 5


@dataclasses.dataclass(frozen=True, repr=False)
class Recovery:
    """Known latent variables beside what the posterior says of them, for N data sets.

    Args:
        truth: the latent variables from which the data were simulated, by name and element, each [N].
        mean: the posterior means, likewise.
        sd: the posterior standard deviations, likewise.
        ranks: for each the number of posterior draws below the known value, from 0 to `num_draws`.
        num_draws: the number of draws for each data set.
    """

    truth: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    num_draws: int

    def __repr__(self) -> str:
        """The names, the number of data sets and of draws."""
        sizes = f"{len(next(iter(self.truth.values())))} data sets, {self.num_draws} draws of each"
        return f"Recovery({', '.join(self.truth)}; {sizes})"

    def summary(self) -> "pandas.DataFrame":
        """A table with one row for each element of each latent variable.

        Returns:
            The columns `correlation` of posterior means and known values; `contraction`, the mean of 1 - posterior
            variance / variance of the known values; `z_sd`, the standard deviation of (mean - truth) / sd, 1 where the
            posteriors are as wide as they should be and normal; `coverage_90`, the share of known values in the
            central intervals of 90%; and `rank_p_value`, that of a chi-squared test that the ranks are uniform, which
            they are if the posteriors are right: a small one says that they are not.

        Reference: Talts et al. 2018, Validating Bayesian Inference Algorithms with Simulation-Based Calibration,
        theorem 1; Schad et al. 2021, Toward a Principled Bayesian Workflow, for contraction and z-scores.
        """
        import pandas

        low, high = (1 - _INTERVAL) / 2 * (self.num_draws + 1), (1 + _INTERVAL) / 2 * (self.num_draws + 1)
        rows = {}
        for name, truth in self.truth.items():
            mean, sd, ranks = self.mean[name], self.sd[name], self.ranks[name]
            varies = truth.std() > 0 and mean.std() > 0
            rows[name] = {
                "correlation": np.corrcoef(mean, truth)[0, 1] if varies else np.nan,
                "contraction": 1.0 - np.mean(sd**2) / np.var(truth) if varies else np.nan,
                "z_sd": np.std((mean - truth) / sd),
                "coverage_90": np.mean((ranks + 0.5 > low) & (ranks + 0.5 < high)),
                "rank_p_value": _p_value(ranks, self.num_draws),
            }
        return pandas.DataFrame.from_dict(rows, orient="index")


def recovery(
    model: Any, num_datasets: int = 500, num_draws: int = 199, *, seed: int = 0, pairs: Any = None
) -> Recovery:
    """Simulates data sets, and compares the latent variables that they came from with draws of their posteriors.

    Args:
        model: a `tfvae.AmortizedInference` that is fitted.
        num_datasets: N; without effect if `pairs` is given.
        num_draws: the number of posterior draws for each data set.
        seed: the seed of the simulations and of the draws.
        pairs: pairs that the model was not trained on, as for `fit`; None simulates them.

    Raises:
        ValueError: the model cannot simulate, or the pairs are not valid.
    """
    num_draws = checks.positive_integer("num_draws", num_draws, minimum=2)
    if pairs is None:
        pairs = model.simulate(checks.positive_integer("num_datasets", num_datasets, minimum=2), seed=seed)
    else:
        pairs = {name: checks.to_numpy(value, name) for name, value in model.unpack(pairs)[0].items()}
        model.check_data(pairs)
    draws = model.sample_latents(pairs[model.data], num_draws, seed=seed + 1)
    found = Recovery({}, {}, {}, {}, num_draws)
    for name, shape in model.space.shapes.items():
        for index in np.ndindex(*shape):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            values = draws[name][(..., *index)].astype(np.float64)
            truth = pairs[name][(slice(None), *index)].astype(np.float64)
            found.truth[label] = truth
            found.mean[label], found.sd[label] = values.mean(axis=0), values.std(axis=0, ddof=1)
            found.ranks[label] = np.sum(values < truth, axis=0)
    return found


def _p_value(ranks: np.ndarray, num_draws: int) -> float:
    """The p-value of a chi-squared test that ranks from 0 to S are uniform, in classes of almost equal probability."""
    classes = min(_MOST_CLASSES, num_draws + 1, len(ranks) // _FEWEST_OF_CLASS)
    if classes < 2:
        return np.nan
    edges = np.round(np.linspace(0, num_draws + 1, classes + 1)) - 0.5
    expected = np.diff(edges) / (num_draws + 1) * len(ranks)
    return float(stats.chisquare(np.histogram(ranks, edges)[0], expected).pvalue)
