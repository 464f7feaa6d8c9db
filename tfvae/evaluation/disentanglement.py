"""How well the dimensions of a code stand for the factors that the data are made of, where these are known."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from tfvae import checks

# A dimension whose variance is below this is not used.
_INACTIVE = 1e-6


class DCI(NamedTuple):
    """Three sides of a disentangled code, each 1 at best.

    Attributes:
        disentanglement: whether each dimension of the code tells of one factor only; 0 where of all alike.
        completeness: whether each factor is told of by one dimension only; 0 where by all alike.
        informativeness: the accuracy with which the factors are predicted from the code, on examples held out, a mean
            over the factors; by chance 1 / C for a factor with C equally frequent values.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def mutual_information_gap(codes: Any, factors: Any, num_bins: int = 20) -> float:
    """Computes the mutual information gap (MIG).

    mean over k of (I(z_l; v_k) - max over m != l of I(z_m; v_k)) / H(v_k),  l the dimension with the largest I

    It is 1 where each factor is determined by one dimension and no other tells of it, and 0 where two dimensions tell
    as much. I is that of a histogram, which is above 0 for independent numbers, by about
    (num_bins - 1) (C - 1) / (2 N) nats for a factor of C values: take many examples.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K]; each takes a few values, which are names or numbers alike.
        num_bins: of the histogram of each dimension, of equal width.

    Returns:
        The gap, from 0 to 1.

    Raises:
        ValueError: an argument is not what it must be.

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

    S_lk is the squared correlation of dimension l with factor k, or where the values of the factor are names the
    balanced accuracy of a classifier by thresholds of dimension l. A dimension that is constant has 0.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K], numbers but for the categorical ones.
        categorical: the columns of factors whose values are names and not numbers.

    Returns:
        The score, from 0 to 1; for a categorical factor of C values at most 1 - 1 / C.

    Raises:
        ValueError: an argument is not what it must be.

    Reference: Kumar et al. 2018, Variational Inference of Disentangled Latent Concepts from Unlabeled Observations.
    """
    codes, factors = _checked(codes, factors)
    num_factors = factors.shape[1]
    if not isinstance(categorical, Iterable) or not set(categorical) <= set(range(num_factors)):
        raise ValueError(
            f"`categorical` must hold columns of factors, from 0 to {num_factors - 1}. Received: "
            f"categorical={categorical!r}"
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
        factors: the factors of each example [N, K], K >= 2; each takes a few values, which are names or numbers alike.
        num_trees: of each forest.
        test_fraction: the part of the examples that is held out, between 0 and 1.
        seed: of the split and of the forests.

    Returns:
        The three scores.

    Raises:
        ValueError: an argument is not what it must be.

    Reference: Eastwood & Williams 2018, A Framework for the Quantitative Evaluation of Disentangled Representations.
    """
    codes, classes = _checked_classes(codes, factors)
    num_trees = checks.positive_integer("num_trees", num_trees)
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must be between 0 and 1. Received: test_fraction={test_fraction!r}")
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
        # All dimensions at each split: among a few of them one that tells of nothing would be taken for want of others.
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
    """Computes the score of the FactorVAE: how well the steadiest dimension tells which factor was held.

    A vote: one factor at random is held at one of its values; among examples that have it, the dimension with the least
    variance, relative to that over all examples, is taken. A classifier by majority gives each dimension a factor; the
    score is its accuracy on as many further votes.

    Args:
        codes: z of each example [N, L], such as the mean of q(z|x).
        factors: the factors of each example [N, K]; each takes a few values, which are names or numbers alike.
        num_votes: how many votes the classifier sees.
        num_examples: how many examples a vote is taken from, with replacement, at least 2.
        seed: of the votes.

    Returns:
        The accuracy, from 0 to 1; by chance 1 / K.

    Raises:
        ValueError: an argument is not what it must be, or no dimension varies.

    Reference: Kim & Mnih 2018, Disentangling by Factorising.
    """
    codes, classes = _checked_classes(codes, factors)
    num_votes = checks.positive_integer("num_votes", num_votes)
    if checks.positive_integer("num_examples", num_examples) < 2:
        raise ValueError(f"`num_examples` must be at least 2, for a variance. Received: num_examples={num_examples!r}")
    codes = codes[:, codes.var(axis=0) > _INACTIVE]
    if not codes.shape[1]:
        raise ValueError("`codes` must vary. Received: codes of which each column is constant")
    codes = codes / codes.std(axis=0)
    generator = np.random.default_rng(seed)
    num_factors = classes.shape[1]

    def tally() -> np.ndarray:
        """How often each dimension was taken where each factor was held [L, K]."""
        counts = np.zeros((codes.shape[1], num_factors))
        for k in generator.integers(num_factors, size=num_votes):
            # The value of one example at random.
            held = np.flatnonzero(classes[:, k] == generator.choice(classes[:, k]))
            counts[codes[generator.choice(held, num_examples)].var(axis=0).argmin(), k] += 1
        return counts

    majority = tally().argmax(axis=1)
    votes = tally()
    return float(votes[np.arange(len(majority)), majority].sum() / num_votes)


def _checked(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """The codes [N, L] and the factors [N, K] as floats.

    Raises:
        ValueError: they are not what they must be.
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
    """The codes [N, L], and for each factor the number of its value [N, K]: see `_checked`."""
    codes, factors = _checked(codes, factors)
    return codes, np.stack([_classes(column, k) for k, column in enumerate(factors.T)], axis=1)


def _classes(factor: np.ndarray, k: int) -> np.ndarray:
    """The number of the value of factor k for each example [N].

    Raises:
        ValueError: there are too many values.
    """
    values, classes = np.unique(factor, return_inverse=True)
    if len(values) > 2 and 2 * len(values) > len(factor):
        raise ValueError(
            "`factors` must take each value twice on average, or more often; put numbers into bins. Received: "
            f"{len(values)} values among {len(factor)} examples in column {k}"
        )
    return classes


def _gap(scores: Sequence[float]) -> float:
    """The largest minus the second largest, which is 0 where there is none."""
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
