"""Disentanglement: how well single dimensions of a code represent the factors of the data, where these are known."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from tfvae import checks

# A dimension whose variance is below this counts as unused.
_INACTIVE = 1e-6


class DCI(NamedTuple):
    """Three properties of a disentangled code, each 1 at best.

    Attributes:
        disentanglement: how far each dimension of the code informs about only one factor; 0 if about all equally.
        completeness: how far only one dimension informs about each factor; 0 if all do equally.
        informativeness: the accuracy with which factors are predicted from the code on held-out examples, averaged over
            the factors; by chance 1 / C for a factor with C equally frequent values.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def mutual_information_gap(codes: Any, factors: Any, num_bins: int = 20) -> float:
    """Computes the mutual information gap (MIG).

    mean over k of (I(z_l; v_k) - max over m != l of I(z_m; v_k)) / H(v_k),  l the dimension with the largest I

    It is 1 if each factor is determined by one dimension and no other informs about it, and 0 if two dimensions inform
    equally. I is estimated from a histogram, which for independent numbers gives about
    (num_bins - 1) (C - 1) / (2 N) nats instead of 0, for a factor of C values: take many examples.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K]; each takes a few values, whose order does not matter.
        num_bins: the number of bins, of equal width, in the histogram of each dimension.

    Returns:
        The gap, from 0 to 1.

    Raises:
        ValueError: an argument is invalid.

    Reference: Chen et al. 2018, Isolating Sources of Disentanglement in Variational Autoencoders.
    """
    codes, classes = _checked_classes(codes, factors)
    num_bins = checks.positive_integer("num_bins", num_bins)
    bins = [np.digitize(code, np.histogram_bin_edges(code, num_bins)[1:-1]) for code in codes.T]
    gaps = [
        _gap([mutual_info_score(factor, code) for code in bins]) / mutual_info_score(factor, factor)
        for factor in classes.T
    ]
    return float(np.mean(gaps))


def sap(codes: Any, factors: Any, categorical: Sequence[int] = ()) -> float:
    """Computes the separated attribute predictability (SAP).

    mean over k of the largest S_lk minus the second largest, l = 1 ... L

    S_lk is the squared correlation of dimension l with factor k or, for a categorical factor, the balanced accuracy of
    a classifier that cuts dimension l at thresholds. It is 0 for a constant dimension.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K], quantities or, in the categorical columns, codes of categories.
        categorical: the numbers of the categorical columns of `factors`.

    Returns:
        The score, from 0 to 1; for a categorical factor of C values at most 1 - 1 / C.

    Raises:
        ValueError: an argument is invalid.

    Reference: Kumar et al. 2018, Variational Inference of Disentangled Latent Concepts from Unlabeled Observations.
    """
    codes, factors = _checked(codes, factors)
    num_factors = factors.shape[1]
    if not isinstance(categorical, Iterable) or not set(categorical) <= set(range(num_factors)):
        raise ValueError(
            f"`categorical` must hold column numbers of `factors`, from 0 to {num_factors - 1}. Received: "
            f"categorical={checks.shown(categorical)}"
        )
    scores = np.zeros((codes.shape[1], num_factors))
    for column in np.flatnonzero(codes.var(axis=0) > _INACTIVE):
        for k in range(num_factors):
            if k in categorical:
                scores[column, k] = _threshold_accuracy(codes[:, [column]], _classes(factors[:, k], k))
            else:
                scores[column, k] = np.corrcoef(codes[:, column], factors[:, k])[0, 1] ** 2
    return float(np.mean([_gap(of_factor) for of_factor in scores.T]))


def dci(codes: Any, factors: Any, *, num_trees: int = 100, test_fraction: float = 0.2, seed: int = 0) -> DCI:
    """Computes disentanglement, completeness and informativeness from random forests.

    R_lk is the importance of dimension l in a forest that predicts factor k from the code. Then

    disentanglement = sum_l rho_l (1 - H_K(R_lk / sum_k R_lk)),  rho_l = sum_k R_lk / sum_lk R_lk
    completeness = mean over k of 1 - H_L(R_lk / sum_l R_lk),  H_K the entropy with logarithms to the base K

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K], K >= 2; each takes a few values, whose order does not matter.
        num_trees: the number of trees in each forest.
        test_fraction: the fraction of the examples that is held out, between 0 and 1.
        seed: the seed of the split and of the forests.

    Returns:
        The three scores.

    Raises:
        ValueError: an argument is invalid.

    Reference: Eastwood & Williams 2018, A Framework for the Quantitative Evaluation of Disentangled Representations.
    """
    codes, classes = _checked_classes(codes, factors)
    num_trees = checks.positive_integer("num_trees", num_trees)
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"`test_fraction` must be between 0 and 1. Received: test_fraction={checks.shown(test_fraction)}"
        )
    if min(codes.shape[1], classes.shape[1]) < 2:
        raise ValueError(
            "`codes` and `factors` must have at least 2 columns each. Received: codes of shape "
            f"{list(codes.shape)} and factors of shape {list(classes.shape)}"
        )
    train, test, train_classes, test_classes = train_test_split(
        codes, classes, test_size=test_fraction, random_state=seed
    )
    columns, accuracies = [], []
    for k in range(classes.shape[1]):
        # Each split considers all dimensions: among a few, one without information would be taken for lack of others.
        forest = RandomForestClassifier(num_trees, max_features=None, random_state=seed)
        forest.fit(train, train_classes[:, k])
        columns.append(forest.feature_importances_)
        accuracies.append(forest.score(test, test_classes[:, k]))
    importances = np.transpose(columns)
    weights = importances.sum(axis=1) / importances.sum()
    return DCI(
        float(weights @ _concentration(importances)),
        float(_concentration(importances.T).mean()),
        float(np.mean(accuracies)),
    )


def factor_vae_score(codes: Any, factors: Any, *, num_votes: int = 800, num_examples: int = 64, seed: int = 0) -> float:
    """Computes the FactorVAE score: how well the dimension that varies least tells which factor was held constant.

    For each vote a random factor is held at one of its values; among examples that have this value, the dimension with
    the least variance, relative to its variance over all examples, is noted. A classifier by majority assigns a factor
    to each dimension; the score is its accuracy on as many further votes.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K]; each takes a few values, whose order does not matter.
        num_votes: how many votes the classifier sees.
        num_examples: how many examples are drawn for a vote, with replacement, at least 2.
        seed: the seed of the votes.

    Returns:
        The accuracy, from 0 to 1; by chance 1 / K.

    Raises:
        ValueError: an argument is invalid, or no dimension varies.

    Reference: Kim & Mnih 2018, Disentangling by Factorising.
    """
    codes, classes = _checked_classes(codes, factors)
    num_votes = checks.positive_integer("num_votes", num_votes)
    if checks.positive_integer("num_examples", num_examples) < 2:
        raise ValueError(
            f"`num_examples` must be at least 2, for a variance. Received: num_examples={checks.shown(num_examples)}"
        )
    codes = codes[:, codes.var(axis=0) > _INACTIVE]
    if not codes.shape[1]:
        raise ValueError("`codes` must vary. Received: codes whose columns are all constant")
    codes = codes / codes.std(axis=0)
    generator = np.random.default_rng(seed)
    num_factors = classes.shape[1]

    def tally() -> np.ndarray:
        """How often each dimension was noted while each factor was held [L, K]."""
        counts = np.zeros((codes.shape[1], num_factors))
        for k in generator.integers(num_factors, size=num_votes):
            # The value that a random example has.
            held = np.flatnonzero(classes[:, k] == generator.choice(classes[:, k]))
            counts[codes[generator.choice(held, num_examples)].var(axis=0).argmin(), k] += 1
        return counts

    majority = tally().argmax(axis=1)
    votes = tally()
    return float(votes[np.arange(len(majority)), majority].sum() / num_votes)


def _checked(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """The codes [N, L] and the factors [N, K] as floats.

    Raises:
        ValueError: an argument is invalid.
    """
    codes, factors = checks.to_numpy(codes, "codes"), checks.to_numpy(factors, "factors")
    for name, array, letter in (("codes", codes, "L"), ("factors", factors, "K")):
        if array.ndim != 2:
            raise ValueError(
                f"`{name}` must have the shape [N, {letter}]. Received: {name} of shape {list(array.shape)}"
            )
        checks.check_finite(array, name)
    checks.check_same_length(codes=codes, factors=factors)
    constant = np.flatnonzero(np.ptp(factors.astype(float), axis=0) == 0)
    if len(constant):
        raise ValueError(f"`factors` must vary. Received: columns {constant.tolist()} that are constant")
    return codes.astype(float), factors.astype(float)


def _checked_classes(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """The codes [N, L], and the factors as numbers of their values [N, K]: see `_checked` and `_classes`."""
    codes, factors = _checked(codes, factors)
    return codes, np.stack([_classes(column, k) for k, column in enumerate(factors.T)], axis=1)


def _classes(factor: np.ndarray, k: int) -> np.ndarray:
    """Numbers the values of factor k from 0, and gives the number of each example's value [N].

    Raises:
        ValueError: the factor has too many values.
    """
    values, classes = np.unique(factor, return_inverse=True)
    if len(values) > 2 and 2 * len(values) > len(factor):
        raise ValueError(
            "`factors` must take each value at least twice on average; put numbers into bins. Received: "
            f"{len(values)} values among {len(factor)} examples in column {k}"
        )
    return classes


def _gap(scores: Sequence[float]) -> float:
    """The largest score minus the second largest, which counts as 0 if there is only one."""
    second, first = np.sort([0.0, *scores])[-2:]
    return first - second


def _threshold_accuracy(code: np.ndarray, classes: np.ndarray) -> float:
    """The balanced accuracy of a classifier that cuts one dimension [N, 1] into as many parts as there are classes."""
    tree = DecisionTreeClassifier(max_leaf_nodes=classes.max() + 1, class_weight="balanced", random_state=0)
    return balanced_accuracy_score(classes, tree.fit(code, classes).predict(code))


def _concentration(importances: np.ndarray) -> np.ndarray:
    """For each row [R, C] 1 minus the entropy of its shares, with logarithms to the base C; 0 for a row of zeros."""
    totals = importances.sum(axis=1, keepdims=True)
    shares = np.divide(importances, totals, out=np.full_like(importances, 1 / importances.shape[1]), where=totals > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return 1 + (shares * logs).sum(axis=1) / np.log(importances.shape[1])
