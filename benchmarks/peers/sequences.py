"""The windows on which `benchmarks/sequences_speed.py` compares networks."""

import numpy as np

NUM_STEPS, CHANNELS, LATENT_DIM = 128, 8, 8


def data(number: int, seed: int = 0) -> np.ndarray:
    """Windows [number, T, C] of sines with noise, each with a gap, one half of them with padding at the end."""
    rng = np.random.default_rng(seed)
    time = np.arange(NUM_STEPS)[:, None]
    frequency, phase = rng.uniform(0.02, 0.2, (2, number, 1, CHANNELS))
    x = np.sin(2 * np.pi * (frequency * time + 5 * phase)) + 0.1 * rng.normal(size=(number, NUM_STEPS, CHANNELS))
    x[:, 20:25, 0] = np.nan
    x[::2, -16:] = np.nan
    return x.astype(np.float32)
