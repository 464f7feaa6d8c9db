"""Whether an inference is calibrated: whether known latent variables lie where the posteriors say, over many data sets.

Latent variables that are drawn from the prior, and data sets from them, make pairs: each latent variable is then one
more draw from the posterior of its data set. Its rank among draws from an inference that is right is uniform.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.evaluation import uniformity
from tfvae.evaluation.simulated import recovery
from tfvae.inference import observations
from tfvae.inference.amortized_inference import AmortizedInference
from tfvae.inference.convergence import NotConverged
from tfvae.inference.draws import PARETO_K_LIMIT, Draws
from tfvae.inference.refitting import Refitting
from tfvae.inference.variational_inference import VariationalInference

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """The ranks of known latent variables among draws of their posteriors, for N data sets.

    `tfvae.plots.calibration` draws them.

    Args:
        ranks: for each latent variable and element, by name, the number of draws below the known value, from 0 to
            `num_draws` [N].
        num_draws: S, the number of draws for each data set.
        pareto_k: k-hat for each data set [N]; None where p(data, z) is not known.
        failures: the errors of data sets that could not be fitted, by their number; they have no ranks.
        unconverged: the numbers of data sets whose fit ended before q had converged; they have ranks.
    """

    ranks: dict[str, np.ndarray]
    num_draws: int
    pareto_k: np.ndarray | None = None
    failures: dict[int, str] = dataclasses.field(default_factory=dict)
    unconverged: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """How many data sets and draws there are, and the smallest p-value."""
        sizes = f"{len(next(iter(self.ranks.values())))} data sets, {self.num_draws} draws of each"
        failures = f", {len(self.failures)} failures" if self.failures else ""
        failures += f", {len(self.unconverged)} not converged" if self.unconverged else ""
        far = ""
        if self.pareto_k is not None:
            # A k-hat that is NaN counts too.
            far = f", k-hat above {PARETO_K_LIMIT} in {np.mean(~(self.pareto_k <= PARETO_K_LIMIT)):.0%}"
        return f"Calibration({', '.join(self.ranks)}; {sizes}{failures}{far}; p_value={self.p_value:.2g})"

    @property
    def p_value(self) -> float:
        """The smallest p-value of all ranks and symmetries, times their number: small if the inference is not right."""
        table = self.summary()[["rank_p_value", "symmetry_p_value"]].to_numpy()
        return float(min(1.0, np.nanmin(table) * table.size))

    def summary(self) -> "pandas.DataFrame":
        """A table with one row for each element of each latent variable.

        With p, the share of draws below the known value, over the data sets:

        Returns:
            The columns `bias`, the mean of p - 1/2: above 0 if the posteriors lie too low, and below if too high;
            `spread`, the variance of p times 12: above 1 if the posteriors are too narrow, and below if too wide;
            `rank_p_value`, that the ranks are uniform; and `symmetry_p_value`, that p and 1 - p have the same
            distribution (VSBC), which a bias breaks but a wrong width of the posteriors does not.

        Reference: Talts et al. 2018, Validating Bayesian Inference Algorithms with Simulation-Based Calibration,
        theorem 1; Yao et al. 2018, Yes, but Did It Work?: Evaluating Variational Inference, section 3.2.
        """
        import pandas

        rows = {}
        for name, ranks in self.ranks.items():
            p = (ranks + 0.5) / (self.num_draws + 1)
            rows[name] = {
                "bias": np.mean(p) - 0.5,
                "spread": 12.0 * np.var(p),
                "rank_p_value": uniformity.p_value(ranks, self.num_draws),
                "symmetry_p_value": uniformity.symmetry_p_value(p),
            }
        return pandas.DataFrame.from_dict(rows, orient="index")

    def bands(self, name: str, probability: float = 0.95) -> uniformity.Bands:
        """The empirical distribution function of the ranks, with bands that uniform ranks leave nowhere.

        Args:
            name: a latent variable, with its element.
            probability: that uniform ranks stay within the bands at all points.

        Reference: Saeilynoja et al. 2022, Graphical Test for Discrete Uniformity, section 2.
        """
        return uniformity.bands(self.ranks[name], self.num_draws, probability)


def calibration(
    inference: Any,
    simulate: Callable[[int], tuple[Mapping[str, Any], Any]] | None = None,
    num_datasets: int = 100,
    num_draws: int = 1000,
    *,
    corrected: bool = False,
    seed: int = 0,
    **fit_arguments: Any,
) -> Calibration:
    """Simulation-based calibration: simulates data sets, infers, and ranks what the data sets were simulated from.

    A copy of a `tfvae.VariationalInference` is fitted to each data set from the beginning, as `fit` does. Data sets of
    the same shapes are fitted together by one compiled program, where they share the noise of the steps. They are
    fitted one after the other if there are arguments of `fit`, you compiled the model with other settings than `fit`
    does, q is a flow or a `StructuredNormal`, or TensorFlow cannot vectorise the density. An error in `fit`, and a fit
    that ends before q has converged, are noted in the result, with a warning of how many there are. Other warnings of
    the fits are not shown, for k-hat is in the result.

    Args:
        inference: a `tfvae.VariationalInference`, fitted or not; or a `tfvae.AmortizedInference` that is fitted.
        simulate: a function of a seed, an int, that draws the latent variables by name from the prior, and a data set
            from them, and returns both; the data are in the form given to `fit`, x or (x, y), or the observations by
            name for a pinned joint distribution. None simulates from the model itself: a pinned joint distribution; a
            function with `predictive` and `latents` as a joint distribution that was fitted to arrays x and y, whose x
            all data sets then share, or to x alone; or what `AmortizedInference` has to simulate with.
        num_datasets: N.
        num_draws: S, the number of draws for each data set.
        corrected: whether the draws are weighted by their smoothed importance weights; False ranks among draws of q.
        seed: the seed of the simulations, the fits and the draws.
        fit_arguments: the arguments of `fit` beside the data, for `VariationalInference`.

    Raises:
        TypeError: `fit` has no argument of a name that was given.
        ValueError: an argument is not valid, or no data set could be fitted.

    Reference: Talts et al. 2018, Validating Bayesian Inference Algorithms with Simulation-Based Calibration, algorithm
    1; Yao et al. 2018, Yes, but Did It Work?: Evaluating Variational Inference, algorithm 3.
    """
    num_datasets = checks.positive_integer("num_datasets", num_datasets, minimum=2)
    num_draws = checks.positive_integer("num_draws", num_draws, minimum=2)
    seed = checks.seed_number(seed)
    if isinstance(inference, AmortizedInference):
        if simulate is not None or corrected or fit_arguments:
            raise ValueError(
                "`simulate`, `corrected` and the arguments of `fit` must be left out for an AmortizedInference, which "
                "simulates by itself and is fitted already. Received: "
                f"simulate={checks.shown(simulate)}, corrected={corrected}, {checks.shown(sorted(fit_arguments))}"
            )
        return Calibration(recovery(inference, num_datasets, num_draws, seed=seed).ranks, num_draws)
    if not isinstance(inference, VariationalInference):
        raise ValueError(
            "`inference` must be a tfvae.VariationalInference or a tfvae.AmortizedInference. Received: "
            f"{checks.shown(inference)}"
        )
    if not (simulate is None or callable(simulate)):
        raise ValueError(f"`simulate` must be a function of a seed. Received: {checks.shown(simulate)}")
    if own := {"x", "y"} & set(fit_arguments):
        raise ValueError(f"`x` and `y` must be left out: each fit is to simulated data. Received: {', '.join(own)}")
    observations.check_unused(fit_arguments)
    seeds = np.random.default_rng(seed).integers(2**31, size=num_datasets).tolist()
    pairs = from_model(inference, num_datasets, seed) if simulate is None else map(simulate, seeds)
    return _calibration(inference, zip(seeds, pairs, strict=True), num_draws, corrected, fit_arguments)


def _calibration(
    inference: VariationalInference,
    pairs: Iterable[tuple[int, Any]],
    num_draws: int,
    corrected: bool,
    fit_arguments: Mapping[str, Any],
) -> Calibration:
    """As `calibration`, for variational inference.

    Args:
        inference: the model.
        pairs: for each data set the seed of its fit, and the pair of known latent variables and data.
        num_draws: S.
        corrected: see `calibration`.
        fit_arguments: see `calibration`.
    """
    # Each is checked when it is made: simulating may take long.
    seeds, checked = zip(*((own_seed, _checked(pair, inference)) for own_seed, pair in pairs), strict=True)
    ranks: dict[str, list[float]] = {}
    pareto_k, failures = [], {}
    fits, unconverged = _drawn(inference, [data for _, data in checked], seeds, num_draws, fit_arguments)
    for index, ((known, _), draws) in enumerate(zip(checked, fits, strict=True)):
        if isinstance(draws, ValueError):
            failures[index] = str(draws)
            continue
        weights = draws.weights if corrected else np.full(num_draws, 1.0 / num_draws)
        pareto_k.append(draws.pareto_k)
        for name, values in draws.items():
            for element in np.ndindex(values.shape[1:]):
                label = f"{name}[{', '.join(map(str, element))}]" if element else name
                is_below = values[(slice(None), *element)] < known[name][element]
                ranks.setdefault(label, []).append(round(num_draws * float(weights @ is_below)))
    if failures:
        index, message = next(iter(failures.items()))
        if not ranks:
            raise ValueError(f"`inference` could be fitted to no data set. Received, for the first: {message}")
        warnings.warn(
            f"{len(failures)} of {len(failures) + len(pareto_k)} data sets could not be fitted and have no ranks, so "
            f"that the others may be no fair sample. The first is number {index}: {message}",
            stacklevel=3,
        )
    if unconverged:
        warnings.warn(
            f"The fits of {len(unconverged)} of {len(fits)} data sets ended before q had converged, so that their "
            f"ranks are of a q that is not the best. The first is number {unconverged[0]}. Give `fit` a callback "
            "`tfvae.callbacks.Convergence(max_epochs=...)` with more epochs.",
            stacklevel=3,
        )
    arrays = {name: np.array(values, int) for name, values in ranks.items()}
    return Calibration(arrays, num_draws, np.array(pareto_k), failures, tuple(unconverged))


def _drawn(
    inference: VariationalInference,
    data: Sequence[Any],
    seeds: Sequence[int],
    num_draws: int,
    fit_arguments: Mapping[str, Any],
) -> tuple[list[Draws | ValueError], list[int]]:
    """The draws for each data set, or the error of its fit; and the numbers of those of which q has not converged."""
    fits: list[Draws | ValueError] = []
    unconverged = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed, fitted in zip(seeds, Refitting(inference).fits(data, seeds, **fit_arguments), strict=True):
            if any(issubclass(each.category, NotConverged) for each in caught):
                unconverged.append(len(fits))
            caught.clear()
            try:
                fits.append(fitted if isinstance(fitted, ValueError) else fitted.draw(num_draws, seed=seed))
            except ValueError as error:
                fits.append(error)
    return fits, unconverged


def from_model(inference: VariationalInference, num_datasets: int, seed: int) -> list[tuple[dict[str, Any], Any]]:
    """Pairs of latent variables and data from the model itself.

    Raises:
        ValueError: the model does not say how to simulate.
    """
    prior_seed, x_seed = tf.unstack(tf.random.experimental.stateless_split(tf.constant([seed, 0]), 2))
    prior, pinned = inference._prior(num_datasets, prior_seed)
    x, y = inference._data or (None, None)
    is_known = inference.predictive is not None and (y is not None or isinstance(x, np.ndarray | tf.Tensor))
    if not prior or not (pinned or is_known):
        raise ValueError(
            "`simulate` must be given, a function of a seed that returns latent variables by name and data, unless the "
            "model is a pinned joint distribution, or has `predictive` and a joint distribution as `latents` and was "
            "fitted to arrays x, or x and y. Received: simulate=None"
        )
    predicted = pinned or {"y": inference._predicted(prior, x, x_seed)}
    known = [{name: np.asarray(value)[index] for name, value in prior.items()} for index in range(num_datasets)]
    drawn = [{name: np.asarray(value)[index] for name, value in predicted.items()} for index in range(num_datasets)]
    data: list[Any] = drawn
    if not pinned:
        data = [each["y"] if y is None else (x, each["y"]) for each in drawn]
    return list(zip(known, data, strict=True))


def _checked(pair: Any, inference: VariationalInference) -> tuple[dict[str, np.ndarray], Any]:
    """The known latent variables and the data that `simulate` returned.

    Raises:
        ValueError: they are not in the form that the model takes.
    """
    shapes = inference.space.shapes
    pins = inference._joint.target.pins
    is_pair = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Mapping) and pair[1] is not None
    known = {name: np.asarray(pair[0][name]) for name in shapes if name in pair[0]} if is_pair else {}
    found = {name: value.shape for name, value in known.items()}
    if found != shapes:
        raise ValueError(
            f"`simulate` must return the latent variables by name, of shapes {shapes}, and data. Received: "
            f"{f'latent variables of shapes {found}' if is_pair else checks.shown(pair)}"
        )
    for name, value in known.items():
        if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise ValueError(
                "`simulate` must return finite numbers for the latent variables. Received: "
                f"{name}={checks.shown(value)}"
            )
    if pins is not None and not (isinstance(pair[1], Mapping) and set(pins) <= set(pair[1])):
        raise ValueError(
            f"`simulate` must return the observations by name, {', '.join(pins)}. Received: {checks.shown(pair[1])}"
        )
    return known, pair[1]
