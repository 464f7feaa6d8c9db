"""What the models of hard_models.py are made of: log densities up to constants, in the precision of the latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from exact_moments import Moments
from keras import ops

Values = dict[str, Any]


class Model(NamedTuple):
    """A model with its data.

    Attributes:
        latents: the shape of each latent, and its support: "positive", "unit", "simplex", "ordered", or None.
        log_joint: maps S values of each latent, each [S, *shape], to log p(data, latents) [S].
        quantities: maps the latents as arrays to what is compared, each [S, ...]; None compares the latents.
        exact: the exact mean and standard deviation of each quantity; None if only MCMC gives them.
        rows: for a model that is fitted in batches, the data as arrays of N rows, and the function of the latents and
            such rows that returns log p(latents) [S] and log p(data | latents) [S, B].
    """

    latents: dict[str, tuple[tuple[int, ...], str | None]]
    log_joint: Callable[[Values], Any]
    quantities: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    exact: Moments | None = None
    rows: tuple[tuple[np.ndarray, ...], Callable[[Values, Any], tuple[Any, Any]]] | None = None

    def compared(self, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The quantities whose moments are compared, from draws of the latents, each [S, ...]."""
        return self.quantities(draws) if self.quantities else dict(draws)


def normal(x: Any, loc: Any, scale: Any) -> Any:
    """The log density of a normal distribution."""
    return -0.5 * ((x - loc) / scale) ** 2 - _log(scale)


def half_normal(x: Any, scale: float) -> Any:
    """The log density of a half-normal distribution."""
    return -0.5 * (x / scale) ** 2


def half_cauchy(x: Any, scale: Any) -> Any:
    """The log density of a half-Cauchy distribution."""
    return -ops.log1p((x / scale) ** 2) - _log(scale)


def _log(x: Any) -> Any:
    return np.log(x) if isinstance(x, float | np.ndarray) else ops.log(x)


def total(x: Any) -> Any:
    """The sum over the last axis."""
    return ops.sum(x, axis=-1)


def times(x: np.ndarray, beta: Any) -> Any:
    """The products [S, N] of x [N, D] and beta [S, D]."""
    return ops.matmul(beta, ops.convert_to_tensor(x.T, dtype=beta.dtype))


def scan(step: Callable[[Any, Any], Any], state: Any, inputs: np.ndarray) -> Any:
    """Applies state = step(state, input) to each input in turn, as the users of each library write it.

    Args:
        step: the step.
        state: the first state, a tuple of tensors [S].
        inputs: one row for each step [T, ...].

    Returns:
        The states after each step, a tuple of tensors [T, S].
    """
    if keras.backend.backend() == "jax":
        # XLA takes minutes to compile a loop that is unrolled.
        return ops.scan(lambda before, row: (step(before, row),) * 2, state, ops.convert_to_tensor(inputs))[1]
    states = []
    for row in inputs:
        state = step(state, row)
        states.append(state)
    return tuple(ops.stack(parts) for parts in zip(*states, strict=True))
