"""Draws from an approximate posterior, estimates from them, and the importance weights that correct and check them."""

import dataclasses
import functools
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfvae import checks

if TYPE_CHECKING:
    import pandas
    import xarray

Arrays = dict[str, np.ndarray]

# The share of draws with a density of 0 that rounding in float32 may explain.
_FEW = 0.01
# Above this k-hat, importance sampling cannot correct the approximation, which should not be trusted.
PARETO_K_LIMIT = 0.7
# The standard deviation of the weights, relative to their mean, below which q is close to the posterior whatever the
# tail of the weights.
HARDLY_VARIES = 0.3
# The standard deviation of the weights of a check below which they have no tail to speak of: by the Cauchy-Schwarz
# inequality, the means of q are then right to this many standard deviations.
_NO_TAIL = 0.1
# With fewer draws, too few lie in the tail to fit a distribution to it.
FEWEST_DRAWS = 25
# Log weights count as equal if they differ by less than this, plus what rounding in float32 adds at their size.
_EQUAL = 1e-3
_ROUNDING = 4.0 * float(np.finfo(np.float32).eps)


class Check(NamedTuple):
    """What more draws of q tell of it: see `tfvae.inference.check`.

    Attributes:
        log_weights: log p(data, z) - log q(z) [M] of more draws, in nats.
        is_moved: whether the posterior has another mean or standard deviation than q.
        is_wrong: whether it has another one than q even after correction by the weights.
    """

    log_weights: np.ndarray
    is_moved: bool
    is_wrong: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Draws(Mapping[str, np.ndarray]):
    """Draws z ~ q, by name: `draws["mu"]` is [S, ...].

    Each draw has an importance weight p(data, z) / q(z). The weights correct every estimate for the difference between
    q and the posterior, after their largest values are smoothed by a fitted Pareto distribution (PSIS). This works
    unless the tail of the weights is too heavy, which the fitted shape, k-hat, shows.

    Args:
        latents: the draws by name, each [S, ...].
        log_weights: log p(data, z) - log q(z) [S], in nats; None if p(data, z) is not known. k-hat is then NaN, no
            estimate is corrected, and there is no ELBO.
        check: what more draws of q tell of it, or None.

    Reference: Yao et al. 2018, Yes, but Did It Work?: Evaluating Variational Inference, algorithm 1; Vehtari et al.
    2024, Pareto Smoothed Importance Sampling.
    """

    latents: dict[str, np.ndarray]
    log_weights: np.ndarray | None
    check: Check | None = None

    def __repr__(self) -> str:
        """The shapes of the draws, and how far they can be trusted."""
        shapes = ", ".join(f"{name}: {list(values.shape)}" for name, values in self.latents.items())
        if self.log_weights is None:
            return f"Draws({shapes}; without weights)"
        return f"Draws({shapes}; pareto_k={self.pareto_k:.2f}, elbo={self.elbo:.6g})"

    def __getitem__(self, name: str) -> np.ndarray:
        return self.latents[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.latents)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def elbo(self) -> float:
        """The evidence lower bound on log p(data), in nats, estimated as the mean of the log weights."""
        return float(np.mean(self._known_log_weights))

    @property
    def elbo_standard_error(self) -> float:
        """The standard error of the ELBO, in nats."""
        log_weights = self._known_log_weights
        return float(np.std(log_weights, ddof=1) / math.sqrt(len(log_weights)))

    @functools.cached_property
    def pareto_k(self) -> float:
        """The estimated shape k-hat of the tail of the importance weights: below 0.5 good, above 0.7 not to be trusted.

        It is -inf if all weights are equal or if those of a check hardly vary, and NaN if there are fewer than 25
        draws, or no weights. If there is a check, k-hat is that of its weights, with two standard errors added if the
        weights do not correct q: it is then at least that far above 0.7. The same is added where k-hat cannot be told
        from 0.7 and the check found that the posterior has another mean or standard deviation than q, and subtracted
        where it has not.
        """
        if self.log_weights is None:
            return math.nan
        if self.check is None:
            return self._psis[1]
        k = _psis(self.check.log_weights)[1]
        if self.check.is_wrong:
            k = max(k, PARETO_K_LIMIT)
            return k + _margin(k, len(self.check.log_weights))
        if not math.isfinite(k):
            return k
        margin = _margin(k, len(self.check.log_weights))
        if _deviation(self.check.log_weights) < _NO_TAIL:
            return -math.inf
        if abs(k - PARETO_K_LIMIT) > margin:
            return k
        return k + (margin if self.check.is_moved else -margin)

    @property
    def may_be_far(self) -> bool:
        """Whether k-hat is above 0.7 or within two standard errors of it."""
        k = self.pareto_k
        return math.isfinite(k) and k + _margin(k, len(self._known_log_weights)) > PARETO_K_LIMIT

    @property
    def weights(self) -> np.ndarray:
        """The smoothed importance weights [S], whose sum is 1."""
        return np.exp(self._psis[0])

    @property
    def log_evidence(self) -> float:
        """The estimate of log p(data) by importance sampling, in nats."""
        log_weights = self._known_log_weights
        highest = log_weights.max()
        return float(highest + np.log(np.mean(np.exp(log_weights - highest))))

    @property
    def _size(self) -> int:
        return len(next(iter(self.latents.values())))

    @property
    def _known_log_weights(self) -> np.ndarray:
        if self.log_weights is None:
            raise ValueError(
                "The draws have no weights, because p(data, z) is not known: give the model a `log_likelihood`, or a "
                "joint distribution that includes the data. Received: draws without `log_weights`"
            )
        return self.log_weights

    @property
    def is_far(self) -> bool:
        """Whether k-hat is known and above 0.7."""
        known = self.log_weights is not None and len(self.log_weights) >= FEWEST_DRAWS
        return known and not self.pareto_k <= PARETO_K_LIMIT

    def warn_where_far(self) -> None:
        """Warns if k-hat is above 0.7: q is far from the posterior, or k-hat itself cannot be estimated."""
        if not self.is_far:
            return
        deviation = _deviation(self._known_log_weights if self.check is None else self.check.log_weights)
        if deviation < HARDLY_VARIES:
            warnings.warn(
                f"k-hat is {self.pareto_k:.2f}, above {PARETO_K_LIMIT}, but the importance weights hardly vary: their "
                f"standard deviation is {deviation:.2g} of their mean. So q is close to the posterior where it has its "
                "mass; only the tail of the weights is uncertain, and more draws tell more of it.",
                stacklevel=3,
            )
        else:
            warnings.warn(
                f"q is far from the posterior: k-hat is {self.pareto_k:.2f}, above {PARETO_K_LIMIT}, so that neither "
                "its draws nor their importance weights are to be trusted. Try a richer `posterior`, such as "
                "tfvae.StructuredNormal() for groups or tfvae.posteriors.CouplingFlow(), or other coordinates for the "
                "model (non-centred, logarithms), then inference.refine(), which draws from the posterior itself by "
                "chains that start at q.",
                stacklevel=3,
            )

    @functools.cached_property
    def _psis(self) -> tuple[np.ndarray, float]:
        return _psis(self._known_log_weights)

    def expectation(
        self, function: Callable[[dict[str, np.ndarray]], np.ndarray], *, corrected: bool = True
    ) -> np.ndarray:
        """Estimates the posterior mean of a function of the latent variables.

        Args:
            function: maps the draws by name, each [S, ...], to values [S, ...].
            corrected: whether to weight the draws by their smoothed importance weights; False gives the mean under q.

        Returns:
            The mean [...].
        """
        values = np.asarray(function(self.latents), float)
        return np.tensordot(self._weights(corrected), values, axes=1)

    def resample(self, num_samples: int | None = None, *, seed: int | None = None) -> dict[str, np.ndarray]:
        """Resamples these draws, with replacement, in proportion to their smoothed importance weights.

        Args:
            num_samples: how many; None means S.
            seed: the same seed gives the same draws; None resamples anew at each call.

        Returns:
            Draws of equal weight by name, each [num_samples, ...].

        Raises:
            ValueError: `num_samples` is out of its range.
        """
        num_samples = self._size if num_samples is None else checks.positive_integer("num_samples", num_samples)
        rows = self._resampled(num_samples, seed)
        return {name: values[rows] for name, values in self.latents.items()}

    def summary(self, *, corrected: bool = True) -> "pandas.DataFrame":
        """Summarises the posterior in a table with one row for each element of each latent variable.

        Args:
            corrected: see `expectation`.

        Returns:
            The columns `mean`, `sd`, `5%`, `50%` and `95%` (quantiles), `mcse_mean` (the Monte Carlo standard error of
            the mean) and `pareto_k`, which is one value for all of q.
        """
        import pandas

        rows = {}
        weights = self._weights(corrected)
        for name, values in self.latents.items():
            for index in np.ndindex(values.shape[1:]):
                label = f"{name}[{', '.join(map(str, index))}]" if index else name
                rows[label] = _moments(values[(slice(None), *index)].astype(float), weights)
        table = pandas.DataFrame.from_dict(rows, orient="index")
        return table.assign(pareto_k=self.pareto_k)

    def to_arviz(self, *, corrected: bool = True, seed: int = 0) -> "xarray.DataTree":
        """Gives the draws to ArviZ as one chain: the groups `posterior` and, where there are weights, `sample_stats`.

        `VariationalInference.to_arviz` gives the groups of the data and of the prior too.

        Args:
            corrected: whether to resample the draws by their smoothed importance weights; False gives the draws of q.
            seed: the seed of the resampling.

        Raises:
            ImportError: the extra `arviz` is not installed.
        """
        return tree(self.groups(corrected=corrected, seed=seed), self)

    def groups(self, *, corrected: bool = True, seed: int = 0) -> dict[str, Arrays]:
        """The draws, each [1, S, ...], and their log weights [1, S], by the names of ArviZ's groups.

        Args:
            corrected: see `to_arviz`.
            seed: see `to_arviz`.
        """
        rows = self._resampled(self._size, seed) if corrected and self.log_weights is not None else slice(None)
        known = {} if self.log_weights is None else {"log_weights": self.log_weights[rows][np.newaxis]}
        return {
            "posterior": {name: values[rows][np.newaxis] for name, values in self.latents.items()},
            "sample_stats": known,
        }

    def _resampled(self, num_samples: int, seed: int | None) -> np.ndarray:
        """The rows of draws resampled in proportion to their weights."""
        return np.random.default_rng(seed).choice(self._size, size=num_samples, p=self._weights(True))

    def _weights(self, corrected: bool) -> np.ndarray:
        if not corrected or self.log_weights is None:
            return np.full(self._size, 1.0 / self._size)
        # Normalised again, because `Generator.choice` tolerates almost no rounding error in the sum.
        return self.weights / self.weights.sum()


def _psis(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The smoothed log weights [S], of which the sum of the weights is 1, and k-hat."""
    log_weights = log_weights.astype(float)
    size = len(log_weights)
    if np.isnan(log_weights).any() or (log_weights == np.inf).any():
        return np.full(size, -math.log(size)), math.inf
    # Otherwise a tail, of arbitrary shape, would be fitted to rounding errors alone.
    if np.ptp(log_weights) <= _EQUAL + _ROUNDING * abs(log_weights.max()):
        return np.full(size, -math.log(size)), -math.inf
    if size < FEWEST_DRAWS:
        return log_weights - np.logaddexp.reduce(log_weights), math.nan
    if np.sort(log_weights)[-int(_tail_size(size))] == log_weights.max():
        # The largest weights are all equal, so that no tail can be fitted to them.
        return log_weights - np.logaddexp.reduce(log_weights), math.inf
    impossible = np.mean(log_weights == -np.inf)
    # Of the parameters that the fit averages over, it overflows for those whose likelihood is 0.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # It takes the log-likelihood of an observation to leave out, whose weight is its inverse.
        smoothed, pareto_k = importlib.import_module("arviz_stats.base").array_stats.psislw(-log_weights)
    if np.isnan(smoothed).any():
        # Many weights of the tail equal the smallest of it, to which none can be fitted.
        return log_weights - np.logaddexp.reduce(log_weights), math.inf
    # Weights of 0 do not enter the tail, so a posterior that is 0 where q is not must be noticed here.
    return np.asarray(smoothed), math.inf if impossible > _FEW else float(pareto_k)


def _margin(pareto_k: float, size: int) -> float:
    """Two standard errors of k-hat from a number of weights, as of its maximum likelihood estimate."""
    return 2.0 * (1.0 + pareto_k) / math.sqrt(_tail_size(size))


def _tail_size(size: int) -> float:
    """How many of a number of weights are taken for their tail."""
    return min(size / 5.0, 3.0 * math.sqrt(size))


def _deviation(log_weights: np.ndarray) -> float:
    """The standard deviation of weights, relative to their mean; NaN, which is not small, if one is NaN or infinite."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_weights.astype(float) - log_weights.max())
        return float(np.std(weights) / np.mean(weights))


def import_arviz() -> Any:
    """The module `arviz_base`.

    Raises:
        ImportError: the extra `arviz` is not installed.
    """
    try:
        importlib.import_module("xarray")
        return importlib.import_module("arviz_base")
    except ImportError as error:
        raise ImportError(f"ArviZ's trees need pip install 'tfvae[arviz]'. Received: {error}") from error


def tree(groups: Mapping[str, Arrays], draws: Draws) -> "xarray.DataTree":
    """Makes ArviZ's tree of groups, without those that are empty, and notes k-hat and the ELBO.

    Args:
        groups: the arrays of each group by name.
        draws: the draws from which the groups were made.
    """
    known = {} if draws.log_weights is None else {"pareto_k": draws.pareto_k, "elbo": draws.elbo}
    made = import_arviz().from_dict(
        {name: group for name, group in groups.items() if group},
        attrs={"/": {"inference_library": "tfvae", **known}},
    )
    if known:
        made["sample_stats"] = made["sample_stats"].to_dataset().assign(pareto_k=draws.pareto_k)
    return made


def _moments(values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The weighted moments and quantiles of values [S]."""
    mean = weights @ values
    deviations = values - mean
    order = np.argsort(values)
    # Each draw stands at the middle of the interval of probability that it covers.
    cumulative = np.cumsum(weights[order]) - 0.5 * weights[order]
    quantiles = np.interp([0.05, 0.5, 0.95], cumulative, values[order])
    return {
        "mean": mean,
        "sd": math.sqrt(weights @ deviations**2),
        **dict(zip(("5%", "50%", "95%"), quantiles, strict=True)),
        "mcse_mean": math.sqrt(weights**2 @ deviations**2),
    }
