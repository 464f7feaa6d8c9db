"""What inference found in the form of ArviZ: groups of draws and of data in one tree, and leaving one out."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import chunks, seeds
from tfvae.inference import observations, pointwise
from tfvae.inference.draws import Arrays, import_arviz, tree
from tfvae.inference.enumeration import Enumerated

if TYPE_CHECKING:
    import xarray

# The most numbers of a group: 1 GB.
_MOST = 2**28


class ArvizExport(keras.Model):
    """The methods of `tfvae.VariationalInference` that hand over to ArviZ."""

    def to_arviz(
        self,
        num_samples: int = 2000,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        corrected: bool = True,
        seed: int = 0,
    ) -> "xarray.DataTree":
        """Draws from q, and gives the draws, the data and what the model says of both to ArviZ, as one chain.

        The groups are `posterior`; `sample_stats` with `log_weights`, log p(data, z) - log q(z) in nats, and
        `pareto_k`; `log_likelihood`, that of each observation in nats; `posterior_predictive`; `prior` and
        `prior_predictive`; `observed_data`, and `constant_data`, which is x where the data are (x, y). Groups of which
        the model says nothing are left out. `log_likelihood` needs a pinned joint distribution, or a function that
        gives the pair of log p(latents) and log p(data | latents), without `local`. The predictive groups need a
        pinned joint distribution or `predictive`; those of the prior one, or `latents` as a joint distribution.
        Observations without a name of their own are called `y`, or `x` where there is no y.

        Args:
            num_samples: S, of each group.
            x: as for `draw`.
            y: as for `draw`.
            batch_size: as for `draw`.
            corrected: whether the draws are resampled by their smoothed importance weights, so that they have equal
                weights; False gives the draws of q, for functions of ArviZ that take the weights.
            seed: the seed of the draws.

        Raises:
            ImportError: the extra `arviz` is not installed.
            ValueError: x is not all of the data, or a group is too large for memory.
        """
        import_arviz()
        self._check_fitted("to_arviz")
        x, y = self._all_data(x, y)
        draws = self.draw(num_samples, x, y, batch_size, seed=seed)
        groups = draws.groups(corrected=corrected, seed=seed)
        latents = {name: tf.constant(value[0]) for name, value in groups["posterior"].items()}
        prior_seed, x_seed = tf.unstack(tf.random.experimental.stateless_split(tf.constant([seed, 1]), 2))
        prior, prior_predictive = self._prior(num_samples, prior_seed)
        groups |= {"prior": _chained(prior), "prior_predictive": _chained(prior_predictive)}
        groups |= self._groups_of_data({"posterior": latents, "prior": prior}, self._read(x, y, batch_size), x_seed)
        return tree(groups, draws)

    def loo(
        self,
        num_samples: int = 2000,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        var_name: str | None = None,
        seed: int = 0,
    ) -> Any:
        """Estimates how well the model predicts each observation from all others, by `loo_approximate_posterior`.

        The draws of q are weighted by p(z | data without the observation) / q(z), so that both the difference between
        q and the posterior and that between the posteriors with and without the observation are corrected.

        Args:
            num_samples: S.
            x: as for `draw`.
            y: as for `draw`.
            batch_size: as for `draw`.
            var_name: the observed variable to leave elements out of; needed where several are pinned.
            seed: the seed of the draws.

        Returns:
            ArviZ's `ELPDData`: `elpd`, the sum over the observations of log p(y_i | all others) in nats, `se`, `p`, and
            for each observation `elpd_i` and `pareto_k`. ArviZ warns where `pareto_k` is above 0.7.

        Raises:
            ImportError: the extra `arviz` is not installed.
            ValueError: the model does not give the log-likelihood of each observation, or x is not all of the data.

        Reference: Magnusson et al. 2019, Bayesian Leave-One-Out Cross-Validation for Large Data, section 2.2.
        """
        self._check_fitted("loo")
        arviz_base = import_arviz()
        x, y = self._all_data(x, y)
        draws = self.draw(num_samples, x, y, batch_size, seed=seed)
        latents = {name: tf.constant(value) for name, value in draws.latents.items()}
        groups = self._groups_of_data({"posterior": latents}, self._read(x, y, batch_size), None)
        found = groups.get("log_likelihood", {})
        if not found:
            raise ValueError(
                "`model` must give the log-likelihood of each observation: a pinned joint distribution, or a function "
                "that gives the pair of log p(latents) [S] and log p(data | latents) [S, B], without `local`. "
                f"Received: {'a model with `local`' if self.local else 'a function of the log joint density'}"
            )
        if (var_name is None and len(found) > 1) or (var_name is not None and var_name not in found):
            raise ValueError(f"`var_name` must be one of {', '.join(found)}. Received: var_name={var_name!r}")
        found = {name: value.astype(float) for name, value in found.items()}
        arviz_stats = importlib.import_module("arviz_stats")
        # Only the ratio of the two densities matters.
        log_weights = draws.log_weights.astype(float)
        return arviz_stats.loo_approximate_posterior(
            arviz_base.from_dict({"log_likelihood": found, "posterior": draws.groups()["posterior"]}),
            log_p=log_weights,
            log_q=np.zeros_like(log_weights),
            var_name=var_name,
            pointwise=True,
        )

    def _groups_of_data(
        self, draws: dict[str, dict[str, tf.Tensor]], data: observations.Observations, seed: tf.Tensor | None
    ) -> dict[str, Arrays]:
        """The groups of observations, those of S draws each [1, S, ...]; groups that the model does not give are empty.

        Args:
            draws: the latent variables by name, each [S, ...], of the posterior and, if it is known, of the prior.
            data: the data.
            seed: the seed of the predictive draws; None leaves them out.
        """
        model, latents = self._given["model"], draws["posterior"]
        rows = len(next(iter(latents.values())))
        pins = self._joint.target.pins
        size = data.num_data if pins is None else max(np.size(value) for value in pins.values())
        if rows * (size or 1) > _MOST:
            raise ValueError(
                f"`num_samples` times the number of observations must be at most {_MOST:.2g}. Received: {rows} draws "
                f"and {size} observations"
            )
        if pins is not None:
            predicted = {} if seed is None else self._predicted(latents, None, seed)
            of_each = model.log_likelihood_of_each if isinstance(model, Enumerated) else pointwise.of_pins(model)
            return {
                "log_likelihood": _chained(of_each(latents)),
                "posterior_predictive": _chained(predicted),
                "observed_data": {name: np.asarray(value) for name, value in pins.items()},
            }
        parts = []
        for batch, batch_seed in seeds.for_each(observations.one_pass(data), tf.constant([0, 0])):
            batch_seed = None if seed is None else batch_seed + seed
            parts.append(self._groups_of_batch(draws, batch, batch_seed))
        axes = {group: 0 if "data" in group else 2 for group in parts[0]}
        return {
            group: {name: np.concatenate([part[group][name] for part in parts], axis) for name in parts[0][group]}
            for group, axis in axes.items()
        }

    def _groups_of_batch(
        self, draws: dict[str, dict[str, tf.Tensor]], batch: Any, seed: tf.Tensor | None
    ) -> dict[str, Arrays]:
        """As `_groups_of_data`, of the rows of one batch of a function's data."""
        if observations.is_none(batch):
            return {}
        is_pair = isinstance(batch, tuple) and len(batch) == 2
        observed = _named(batch[1], "y") if is_pair else _named(batch, "x")
        name = next(iter(observed)) if len(observed) == 1 else "rows"
        groups = {"observed_data": observed, "constant_data": _named(batch[0], "x") if is_pair else {}}
        if self.local is None:
            groups["log_likelihood"] = _chained(self._log_likelihood_of_rows(draws["posterior"], batch, name))
        if seed is not None and self.predictive is not None:
            for group, latents in draws.items():
                if latents:
                    predicted = self._predicted(latents, batch[0] if is_pair else batch, seed)
                    groups[f"{group}_predictive"] = _chained({name: predicted})
        return groups

    def _log_likelihood_of_rows(self, latents: dict[str, tf.Tensor], batch: Any, name: str) -> dict[str, np.ndarray]:
        """The log-likelihood [S, B] of each row by a name; empty where the model gives only the log joint density."""
        rows, size = len(next(iter(latents.values()))), len(tf.nest.flatten(batch)[0])
        parts = []
        for part in chunks.slices(rows, chunks.rows_within(pointwise.CHUNK_ELEMENTS, size)):
            values = {key: value[part] for key, value in latents.items()}
            log_likelihood = self._run(self._log_likelihood, values, batch)
            if log_likelihood.shape.rank != 2:
                return {}
            parts.append(log_likelihood.numpy())
        return {name: np.concatenate(parts)}

    def _log_likelihood(self, latents: dict[str, tf.Tensor], x: Any) -> tf.Tensor:
        return self._joint.target.log_densities(latents, x).log_likelihood


def _chained(group: Mapping[str, Any]) -> Arrays:
    """Adds the axis of the one chain."""
    return {name: np.asarray(value)[np.newaxis] for name, value in group.items()}


def _named(data: Any, name: str) -> Arrays:
    """The arrays of a structure of data by name."""
    if isinstance(data, Mapping):
        return {f"{key}": np.asarray(value) for key, value in data.items()}
    flat = tf.nest.flatten(data)
    return {name if len(flat) == 1 else f"{name}_{index}": np.asarray(value) for index, value in enumerate(flat)}
