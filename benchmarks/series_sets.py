"""Folders of labelled series for benchmarks/series_anomalies.py: made ones, and those that aeon ships.

A folder holds one CSV file for each series, named KIND-NUMBER.csv, with a row for each step and these columns:

- `label`: 1 for a step that is an anomaly, else 0;
- `train`, which may be left out: 1 for the steps that methods may learn from and that are not scored, else 0. Without
  it, methods learn from all steps, anomalies among them, and all steps are scored;
- every other column is a channel.

Faults of six kinds are planted in series without any. Those of one seed are planted in the same series, of three
channels that depend on each other: a periodic shape with harmonics, whose period and size wander, and a slower common
factor, each with a delay of its own, and noise. aeon ships two series. KDD-TSAD 135 has one anomaly, of 12 steps, which
experts planted in a recording. Daphnet S06R02E0, nine channels of acceleration, has none, so the six kinds are planted
in its second half.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

NUM_STEPS = 5000
TRAIN = 2500
CHANNELS = 3
MAX_DELAY = 15
FAULTS = 5
# The steps in which a fault comes and goes, where it would otherwise begin with a jump that gives it away.
FADE = 5


def clean(seed: int) -> np.ndarray:
    """A series without faults, [NUM_STEPS, CHANNELS]."""
    rng = np.random.default_rng([seed, 0])
    harmonics = np.arange(1, 5)
    amplitudes = rng.normal(size=4) / harmonics
    phases = rng.uniform(0, 2 * np.pi, 4)
    # The speed wanders by some per cent, and so does the size.
    length = NUM_STEPS + MAX_DELAY
    speed = 2 * np.pi / rng.uniform(20, 50) * np.exp(0.03 * _smooth(rng, length, 100))
    angle = np.cumsum(speed)[:, np.newaxis]
    size = np.exp(0.1 * _smooth(rng, length, 200))
    shape = size * (amplitudes * np.sin(harmonics * angle + phases)).sum(axis=1)
    factor = _smooth(rng, length, 60)
    x = np.empty([NUM_STEPS, CHANNELS])
    for channel in range(CHANNELS):
        of_shape, of_factor = rng.uniform(0.5, 1.5, 2) * rng.choice([-1, 1], 2)
        first, other = rng.integers(0, MAX_DELAY, 2)
        x[:, channel] = of_shape * shape[first : first + NUM_STEPS] / shape.std()
        x[:, channel] += 0.5 * of_factor * factor[other : other + NUM_STEPS]
    return x + rng.uniform(0.05, 0.2) * rng.normal(size=x.shape)


def plant(x: np.ndarray, kind: str, rng: np.random.Generator, first: int, faults: int = FAULTS) -> tuple:
    """Plants faults of one kind in the steps of x [T, C] from the first on; returns them and the labels [T]."""
    scale = x[:first].std(axis=0)
    faulty, labels = x.copy(), np.zeros(len(x), int)
    # One fault in each of as many stretches, away from its ends, so that no two meet.
    for stretch in np.array_split(np.arange(first, len(x)), faults):
        length = int(rng.integers(1, 4) if kind == "spike" else rng.integers(40, 101))
        start = int(rng.integers(stretch[0] + 100, stretch[-1] - 2 * length - 50))
        steps = slice(start, start + length)
        faulty[steps] = KINDS[kind](x, start, length, scale, rng)
        labels[steps] = 1
    return faulty, labels


def spike(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three steps of one channel are 1.5 to 3 standard deviations off."""
    return x[start : start + length] + _one(x, rng) * scale * _signed(rng, 1.5, 3.0)


def level(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One channel is 0.6 to 1.2 standard deviations off for a while."""
    return x[start : start + length] + _one(x, rng) * scale * _signed(rng, 0.6, 1.2)


def trend(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One channel drifts away, by 1 to 2 standard deviations at the end."""
    ramp = np.linspace(0, 1, length)[:, np.newaxis]
    return x[start : start + length] + ramp * _one(x, rng) * scale * _signed(rng, 1.0, 2.0)


def period(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All channels run 1.4 to 1.8 times as fast, or as slowly."""
    del scale
    speed = rng.uniform(1.4, 1.8) ** rng.choice([-1, 1])
    at = start + speed * np.arange(length)
    warped = np.stack([np.interp(at, np.arange(len(x)), channel) for channel in x.T], axis=1)
    return _faded(x[start : start + length], warped)


def variance(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One channel has noise of 0.3 to 0.6 standard deviations more."""
    noise = rng.normal(size=(length, 1)) * rng.uniform(0.3, 0.6)
    return x[start : start + length] + noise * scale * _one(x, rng)


def between(x: np.ndarray, start: int, length: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One channel shows what it showed at an earlier time: usual alone, but not beside the others."""
    del scale
    earlier = start - int(rng.integers(length, start - length))
    part, is_shown = x[start : start + length], _one(x, rng)
    return _faded(part, np.where(is_shown, x[earlier : earlier + length], part))


KINDS = {"spike": spike, "level": level, "trend": trend, "period": period, "variance": variance, "between": between}


def made(kind: str, seed: int) -> pd.DataFrame:
    """A series with planted faults of one kind, as the table of its file."""
    rng = np.random.default_rng([seed, 1, list(KINDS).index(kind)])
    return table(*plant(clean(seed), kind, rng, TRAIN), TRAIN)


def table(x: np.ndarray, labels: np.ndarray, train: int) -> pd.DataFrame:
    """The table of a series x [T, C] with labels [T], of whose steps the first are for training."""
    frame = pd.DataFrame(x, columns=[f"x{channel}" for channel in range(x.shape[1])])
    return frame.assign(label=labels, train=(np.arange(len(x)) < train).astype(int))


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The values [T, C], the labels [T], and which steps are for training, bool [T] or None, of a file."""
    frame = pd.read_csv(path)
    labels = frame.pop("label").to_numpy().astype(int)
    is_training = frame.pop("train").to_numpy().astype(bool) if "train" in frame else None
    return frame.to_numpy(np.float64), labels, is_training


def write_made(folder: Path, seeds: Iterable[int]) -> None:
    """Writes the made series of each kind and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        for seed in seeds:
            made(kind, seed).round(5).to_csv(folder / f"{kind}-{seed}.csv", index=False)


def write_aeon(folder: Path) -> None:
    """Writes the series that aeon ships."""
    from aeon import datasets

    folder.mkdir(parents=True, exist_ok=True)
    # The test file is the whole recording, of which the training file is the beginning.
    (train, _), (x, labels) = (datasets.load_kdd_tsad_135(split) for split in ("train", "test"))
    np.testing.assert_array_equal(x[: len(train)], train)
    table(x[:, np.newaxis], labels, len(train)).to_csv(folder / "kdd_tsad_135-0.csv", index=False)
    x, labels = datasets.load_daphnet_s06r02e0()
    if labels.any():
        raise ValueError("Daphnet S06R02E0 must have no labelled anomalies, so that faults can be planted.")
    for index, kind in enumerate(KINDS):
        rng = np.random.default_rng([0, 2, index])
        half = len(x) // 2
        table(*plant(x.astype(np.float64), kind, rng, half), half).round(3).to_csv(
            folder / f"daphnet_{kind}-0.csv", index=False
        )


def _smooth(rng: np.random.Generator, length: int, width: int) -> np.ndarray:
    """Smoothed noise [length] of mean 0 and standard deviation 1."""
    kernel = np.hanning(2 * width + 1)
    values = np.convolve(rng.normal(size=length + 2 * width), kernel, mode="valid")
    return (values - values.mean()) / values.std()


def _one(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which channel has the fault, bool [C]."""
    return np.arange(x.shape[1]) == rng.integers(x.shape[1])


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    return rng.uniform(low, high) * rng.choice([-1, 1])


def _faded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What begins and ends as one array [N, C], and is the other between."""
    distance = np.minimum(np.arange(len(before)), np.arange(len(before))[::-1])[:, np.newaxis]
    weight = np.minimum((distance + 1) / (FADE + 1), 1)
    return (1 - weight) * before + weight * after
