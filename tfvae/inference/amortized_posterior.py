"""What amortised inference says of a data set: draws with weights, densities, and whether it is like those seen."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks, chunks, seeds
from tfvae.inference import pairs
from tfvae.inference.amortized_signatures import AmortizedExport
from tfvae.inference.draws import Draws
from tfvae.inference.typical import TypicalFeatures

# The most draws times data sets that are computed at a time.
_CHUNK_DRAWS = 2**15


class AmortizedPosterior(AmortizedExport):
    """The methods of `tfvae.AmortizedInference` that take data sets."""

    event_shape: tuple[int | None, ...]
    typical: TypicalFeatures

    def sample(self, x: Any, num_samples: int = 2000, *, seed: int | None = None) -> Draws | list[Draws]:
        """Draws latent variables from q(theta | x), with importance weights where p(x, theta) is known.

        Args:
            x: one data set [...], or N data sets [N, ...].
            num_samples: S.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The draws of the one data set; or a list of those of each of the N. A warning says which data sets are
            unlike all simulated ones, and where k-hat is above 0.7.

        Raises:
            ValueError: x is not valid, or the model is not fitted.
        """
        x, is_one = self._data_sets(x, "sample")
        self._warn_where_unlike(x)
        results: list[Draws] = []
        for given, values, log_q in self._chunks_of_draws(x, num_samples, self._seed(seed)):
            for row in range(len(given)):
                latents = {name: value[:, row] for name, value in values.items()}
                log_weights = None
                if self._simulations.log_joint is not None:
                    repeated = tf.repeat(given[row : row + 1], num_samples, axis=0)
                    log_joint = self._run(self._log_joint, latents, repeated)
                    log_weights = log_joint.numpy().astype(float) - log_q[:, row].numpy()
                results.append(Draws({name: value.numpy() for name, value in latents.items()}, log_weights))
        self._warn_where_far(results)
        return results[0] if is_one else results

    def sample_latents(self, x: Any, num_samples: int, *, seed: int | None = None) -> dict[str, np.ndarray]:
        """Draws latent variables from q(theta | x) of many data sets, without weights and warnings.

        Args:
            x: N data sets [N, ...].
            num_samples: S.
            seed: as for `sample`.

        Returns:
            The draws by name, each [S, N, ...].
        """
        x, _ = self._data_sets(x, "sample_latents")
        parts = [values for _, values, _ in self._chunks_of_draws(x, num_samples, self._seed(seed))]
        return {name: np.concatenate([part[name].numpy() for part in parts], axis=1) for name in self.space.names}

    def _chunks_of_draws(
        self, x: np.ndarray, num_samples: int, seed: tf.Tensor
    ) -> Iterator[tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]]:
        """Data sets in chunks, with their draws by name, each [S, B, ...], and log q(theta | x) [S, B]."""
        num_samples = checks.positive_integer("num_samples", num_samples)
        for part, part_seed in seeds.for_slices(len(x), max(1, _CHUNK_DRAWS // num_samples), seed):
            given = tf.constant(x[part])
            yield given, *self._run(self._draw, given, part_seed, num_samples=num_samples)

    def _log_joint(self, latents: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        return self._simulations.log_joint(latents, x)

    def log_prob(self, theta: Any, x: Any) -> np.ndarray:
        """Evaluates log q(theta | x), a density over the latent variables in their own units.

        Args:
            theta: the latent variables by name, each [N, ...]; or the array, if `theta` is the only one.
            x: data sets [N, ...]; or one data set [...], for all of the N values.

        Returns:
            The log density [N], in nats; -inf outside of the support.

        Raises:
            ValueError: theta or x is not valid, or the model is not fitted.
        """
        x, is_one = self._data_sets(x, "log_prob")
        if not isinstance(theta, Mapping):
            if len(self.space.names) != 1:
                raise ValueError(
                    f"`theta` must be a dictionary with the keys {', '.join(self.space.names)}. Received: theta of "
                    f"type {type(theta).__name__}"
                )
            theta = {self.space.names[0]: theta}
        values = pairs.checked_latents(self.space, theta)
        rows = len(next(iter(values.values())))
        if is_one:
            x = np.repeat(x, rows, axis=0)
        checks.check_same_length(theta=next(iter(values.values())), x=x)
        results = []
        for part in chunks.slices(rows, _CHUNK_DRAWS // 4):
            latents = {name: tf.constant(value[part]) for name, value in values.items()}
            log_q, is_inside = self._run(self._log_prob, latents, tf.constant(x[part]))
            results.append(tf.where(is_inside, log_q, -math.inf).numpy())
        return np.concatenate(results)

    def unlikeness(self, x: Any) -> np.ndarray:
        """How unlike the simulated data sets these are: above 1, `sample` warns.

        It is the Mahalanobis distance of the features of x from those of simulated data sets, divided by the distance
        that one in a thousand of these exceeds.

        Args:
            x: one data set [...], or N data sets [N, ...].

        Returns:
            The relative distance [N], of one data set too.

        Reference: Schmitt et al. 2023, Detecting Model Misspecification in Amortized Bayesian Inference with Neural
        Networks, section 3, with a distance for each data set.
        """
        x, _ = self._data_sets(x, "unlikeness")
        return self._unlikeness(x)

    def _unlikeness(self, x: np.ndarray) -> np.ndarray:
        found = [
            self._run(self._relative_distance, tf.constant(x[part])).numpy() for part in chunks.slices(len(x), 500)
        ]
        return np.concatenate(found)

    def _relative_distance(self, x: tf.Tensor) -> tf.Tensor:
        return self.typical.relative_distance(self._features(x))

    def _warn_where_unlike(self, x: np.ndarray) -> None:
        unlike = np.flatnonzero(self._unlikeness(x) > 1.0)
        if len(unlike):
            warnings.warn(
                f"`x` is unlike all data sets that were simulated ({len(unlike)} of {len(x)}, the first at index "
                f"{unlike[0]}): q was not trained on such data, and need not be near the posterior. Check the "
                "simulator and the units of x, or widen the prior.",
                stacklevel=3,
            )

    def _warn_where_far(self, results: list[Draws]) -> None:
        if len(results) == 1:
            results[0].warn_where_far()
            return
        far = [index for index, draws in enumerate(results) if draws.is_far]
        if far:
            warnings.warn(
                f"q is far from the posterior of {len(far)} of {len(results)} data sets, the first at index {far[0]}: "
                "their k-hat is above 0.7. Train longer, or with a richer `encoder` or `posterior`.",
                stacklevel=3,
            )

    def _data_sets(self, x: Any, method: str) -> tuple[np.ndarray, bool]:
        """Data sets as an array [N, ...], and whether there is one without an axis for N."""
        if self.event_shape is None or float(self.standardized) == 0.0:
            raise ValueError(f"Fit the model before `{method}()`. Received: a model that is not fitted")
        x = checks.to_numpy(x, self.data)
        is_one = x.ndim == len(self.event_shape)
        x = x[np.newaxis] if is_one else x
        self._check_x(x)
        return x.astype(np.float32), is_one
