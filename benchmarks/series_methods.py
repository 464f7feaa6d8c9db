"""The methods of benchmarks/series_anomalies.py: each computes a score of every step, higher for anomalies.

A method is a function of the training part [N, C], the steps to score [M, C], both standardised by the training part,
the length of the windows and a seed. Where there is no training part, both are the same array. Left out is PyOD's
`AnomalyTransformer`, which took more than seven minutes for 2500 steps of three channels.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

Method = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]

# Of the models of tfvae. These were not tuned; what they say of likelihood and score was chosen on made series of the
# seeds 100 and 101, which are not among those reported.
LATENT_DIM = 8
HIDDEN = (256, 128)
EPOCHS = 50
BATCH_SIZE = 128
SEQUENCE = 200
EPOCHS_OF_SEQUENCES = 100
# Those of PyOD that are networks of torch.
NEURAL = ("PyOD AutoEncoder", "PyOD LSTMAD")


def windows_vae(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """A `tfvae.VAE` of windows, with noise that is learned for each channel and step of a window.

    A step is scored as `tfvae.detection.StepDecision` says. What is typical is so of the last fifth of the training
    part, which the model is not trained on.
    """
    import keras

    import tfvae
    from tfvae import likelihoods, networks

    keras.utils.set_random_seed(seed)
    windows = tfvae.data.windows(train, length, stride=1)
    shape = windows.train.shape[1:]
    likelihood = likelihoods.Missing(likelihoods.StudentT(scale="per_dimension"), fill=False)
    vae = tfvae.VAE(
        networks.dense_encoder(shape, HIDDEN, missing_mask=True),
        networks.dense_decoder(LATENT_DIM, likelihood.parameter_shape(shape), HIDDEN[::-1]),
        LATENT_DIM,
        likelihood=likelihood,
    )
    steps = -(-len(windows.train) // BATCH_SIZE) * EPOCHS
    vae.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)), steps_per_execution=16)
    vae.fit(windows.train, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    held_out, new = windows.series.windows(train[-len(train) // 5 :]), windows.series.windows(test)
    vae.calibrate(held_out.x, false_alarm_rate=0.01)
    vae.calibrate_steps(held_out, false_alarm_rate=0.01)
    found = windows.series.detected(vae.detect(new.x), new, vae.decision.of_steps)
    keras.utils.clear_session()
    return found["score"]


def sequential_vae(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """A `tfvae.SequentialVAE` whose encoder reads the steps before and after, scored on the same two scales.

    What windows hold are the scores that `detect` gives their steps, and their own scores are the sums.
    """
    import keras

    import tfvae
    from tfvae import likelihoods, networks
    from tfvae.detection import StepDecision

    keras.utils.set_random_seed(seed)
    windows = tfvae.data.windows(train, SEQUENCE, stride=SEQUENCE // 20)
    channels = train.shape[1]
    likelihood = likelihoods.Missing(likelihoods.StudentT(scale="per_dimension"), fill=False)
    model = tfvae.SequentialVAE(
        networks.temporal_encoder((channels,), per_step=True, causal=False, hidden=(64, 64)),
        networks.dense_decoder(LATENT_DIM, likelihood.parameter_shape((channels,)), (64,)),
        LATENT_DIM,
        transition=networks.dense_encoder((LATENT_DIM,), (64,)),
        likelihood=likelihood,
    )
    steps = -(-len(windows.train) // 16) * EPOCHS_OF_SEQUENCES
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), steps_per_execution=8)
    model.fit(windows.train, epochs=EPOCHS_OF_SEQUENCES, batch_size=16, verbose=0)

    def steps_of(x: np.ndarray) -> np.ndarray:
        return ((x - windows.offset) / windows.scale).astype(np.float32)[np.newaxis]

    def scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores = model.detect(steps_of(x))["score"][0]
        return scores, _of_steps(np.lib.stride_tricks.sliding_window_view(scores, length).sum(axis=1), x, length)

    held_out = train[-len(train) // 5 :]
    model.calibrate(steps_of(held_out), false_alarm_rate=0.01)
    decision = StepDecision.learn(*scales(held_out), false_alarm_rate=0.01)
    found = decision.score(*scales(test))
    keras.utils.clear_session()
    return found


def _of_steps(scores: np.ndarray, x: np.ndarray, length: int) -> np.ndarray:
    """The score of each step of x [M, C]: the mean of those [W] of the windows, one from each step, that hold it."""
    from tfvae.data import Series

    channels = x.shape[1]
    cut = Series(map(str, range(channels)), np.zeros(channels), np.ones(channels), length).windows(x)
    return Series.by_step(np.broadcast_to(scores[:, np.newaxis], cut.x.shape[:2]), cut)


def random(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Numbers that know nothing: what a measure gives for no skill."""
    del train, length
    return np.random.default_rng(seed).uniform(size=len(test))


def moving_average(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """The distance from the mean of the steps around, over all channels."""
    del train, seed
    kernel = np.ones(length) / length
    weight = np.convolve(np.ones(len(test)), kernel, mode="same")
    around = np.stack([np.convolve(channel, kernel, mode="same") / weight for channel in test.T], axis=1)
    return np.linalg.norm(test - around, axis=1)


def matrix_profile(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """stumpy: the distance of each window, standardised, to its nearest neighbour in the training part."""
    del seed
    import stumpy

    return _profile(stumpy.stump, train, test, length)


def matrix_profile_raw(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """stumpy: as `matrix_profile`, of windows as they are."""
    del seed
    import stumpy

    return _profile(stumpy.aamp, train, test, length)


def _profile(join: Callable[..., Any], train: np.ndarray, test: np.ndarray, length: int) -> np.ndarray:
    other = (None,) * test.shape[1] if train is test else train.T
    of_channels = [
        join(
            np.ascontiguousarray(channel), length, None if known is None else np.ascontiguousarray(known), known is None
        )
        for channel, known in zip(test.T, other, strict=True)
    ]
    return _of_steps(np.mean([found[:, 0].astype(np.float64) for found in of_channels], axis=0), test, length)


def of_pyod(name: str) -> Method:
    """PyOD's `TimeSeriesOD`: one of its detectors on windows."""

    def method(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
        from pyod.models.embedding import resolve_detector
        from pyod.models.ts_od import TimeSeriesOD

        _seed(seed)
        detector = resolve_detector(name, 0.1, random_state=seed)
        return TimeSeriesOD(detector, length, score_aggregation="mean").fit(train).decision_function(test)

    return method


def lstm(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """PyOD's `LSTMAD`: the errors of a forecast of the next step."""
    from pyod.models.ts_lstm import LSTMAD

    _seed(seed)
    return LSTMAD(length).fit(train).decision_function(test)


def spectral_residual(train: np.ndarray, test: np.ndarray, length: int, seed: int) -> np.ndarray:
    """PyOD's `SpectralResidual`, which learns nothing."""
    del train, length, seed
    from pyod.models.ts_spectral_residual import SpectralResidual

    return SpectralResidual().fit(test).decision_scores_


def _seed(seed: int) -> None:
    if importlib.util.find_spec("torch"):
        import torch

        torch.manual_seed(seed)


METHODS: dict[str, Method] = {
    "tfvae VAE": windows_vae,
    "tfvae SequentialVAE": sequential_vae,
    "matrix profile": matrix_profile,
    "matrix profile, raw": matrix_profile_raw,
    "PyOD IForest": of_pyod("IForest"),
    "PyOD KNN": of_pyod("KNN"),
    "PyOD LOF": of_pyod("LOF"),
    "PyOD PCA": of_pyod("PCA"),
    "PyOD AutoEncoder": of_pyod("AutoEncoder"),
    "PyOD LSTMAD": lstm,
    "PyOD SpectralResidual": spectral_residual,
    "moving average": moving_average,
    "random": random,
}
# What a method needs beside tfvae.
NEEDS = {
    method: "stumpy" if method.startswith("matrix") else "torch" if method in NEURAL else "pyod"
    for method in METHODS
    if method.startswith(("matrix", "PyOD"))
}
