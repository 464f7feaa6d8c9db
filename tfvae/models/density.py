"""A density of vectors: any learned prior, fitted to data by maximum likelihood."""

import math
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, graphs
from tfvae.exportable import Arrays, Exportable, Signature
from tfvae.models import parts
from tfvae.models.variational_model import described
from tfvae.priors import Prior
from tfvae.training.batch import Batch, batches
from tfvae.training.plan import LayerTraits
from tfvae.training.trainer import Trainer

# How many draws an export is compared on, if no data are given.
_DRAWN_ROWS = 64


class MaximumLikelihood(Trainer):
    """A model whose output for x is log p(x) [B], in nats. `fit` maximises its mean, which is the metric `log_prob`.

    Args:
        keras_kwargs: the arguments of `keras.Model`.
    """

    def __init__(self, **keras_kwargs: Any) -> None:
        # Without autocast, because log-densities need x in float32.
        super().__init__(autocast=False, **keras_kwargs)
        self._trackers = [keras.metrics.Mean(name="log_prob")]

    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the loss of a batch: see `Trainer.batch_losses`."""
        log_prob = self(batch.x, training=training)
        loss = -log_prob if batch.sample_weight is None else -log_prob * batch.sample_weight
        return [tf.reduce_sum(loss) / batch.global_size], {"loss": loss, "log_prob": log_prob}


@keras.saving.register_keras_serializable("tfvae")
class Density(Exportable, MaximumLikelihood):
    """A density p(x) of vectors x [B, D], which is a `tfvae.priors.Prior` of D dimensions.

    `fit` maximises the mean of log p(x). The metrics are `loss`, which is its negative, and `log_prob`, in nats per
    example. With `SplineFlow`, `Flow`, `NormalMixture` or `Normal` log p(x) is exact; with `SecondStage` it is a random
    lower bound on average, and there is no export. Standardise data whose columns are on different scales: flows start
    at N(0, I).

    `model(x)` and `predict` return log p(x) [B]. The model is built by the constructor if the prior has a `latent_dim`,
    and otherwise when it first sees data. It is saved, trained on several devices and resumed as any model of tfvae,
    and exports the functions `log_prob`, from x, and `sample`, from noise epsilon.

    Args:
        prior: p(x), of all real vectors; `tfvae.priors.SplineFlow()` fits most shapes. It may not be shared with
            another model, nor be a `VampPrior`, which is made of a model's encoder.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the prior is not one of real vectors, or is made of another model's parts.

    Reference: Durkan et al. 2019, Neural Spline Flows, section 5.1, for densities by flows.
    """

    export_tags = ("density-estimation",)

    def __init__(self, prior: Prior, **keras_kwargs: Any) -> None:
        super().__init__(**keras_kwargs)
        self.prior = parts.checked_part("prior", prior, Prior)
        if self.prior.support != "real":
            raise ValueError(
                "`prior` must be a density of all real vectors, and not made of the parts of a model. Received: "
                f"{checks.shown(prior)}"
            )
        # Set through __dict__, because Keras would otherwise try to save this graph with the model.
        self.__dict__["_graph"] = graphs.graph(self.call, reduce_retracing=True)
        if self.prior.latent_dim is not None:
            self.build((None, self.prior.latent_dim))

    def __repr__(self) -> str:
        """The prior, and the number of its trainable weights."""
        count = sum(math.prod(variable.shape) for variable in self.trainable_variables)
        weights = f"{count:,} trainable weights" if self.built else "not built"
        return f"{type(self).__name__}(prior={described(self.prior)}, {weights})"

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Builds the prior for x [B, D].

        Args:
            input_shape: the shape of x.
        """
        parts.set_latent_dim("prior", self.prior, input_shape[-1])
        parts.build(self.prior, (None, input_shape[-1]))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The density log p(x) [B], in nats.

        Args:
            x: the data [B, D].
            training: has no effect.
        """
        x = tf.cast(x, tf.float32)
        if x.shape[-1] != self.prior.latent_dim:
            raise ValueError(f"`x` must have the shape [B, {self.prior.latent_dim}]. Received: x of shape {x.shape}")
        return self.prior.distribution().log_prob(x)

    def operations_per_example(self, layers: LayerTraits) -> float:
        """Estimates the number of floating-point operations per example in a training step.

        Args:
            layers: the traits of the model's layers.
        """
        return 3.0 * layers.operations

    def check_data(self, x: np.ndarray) -> None:
        """Builds the model if it is not built yet, and raises ValueError unless x is a finite array [N, D].

        Args:
            x: the data.
        """
        if x.ndim != 2:
            raise ValueError(f"`x` must have the shape [N, D]. Received: x of shape {list(x.shape)}")
        if not self.built:
            with self.distribute_strategy.scope():
                self.build((None, x.shape[1]))
                self.built = True
        checks.check_shape(x, (self.prior.latent_dim,))
        checks.check_finite(x)
        checks.check_float32(x)

    def log_prob(self, x: Any, batch_size: int = 4096) -> np.ndarray:
        """Computes log p(x).

        Args:
            x: an array [N, D].
            batch_size: how many examples are computed at a time.

        Returns:
            The log-densities [N], in nats per example.
        """
        x = checks.to_numpy(x)
        self.check_data(x)
        return np.concatenate([self._graph(part).numpy() for part in batches(x, batch_size)])

    def sample(self, n: int, seed: int | None = None) -> np.ndarray:
        """Draws x ~ p(x).

        Args:
            n: the number of draws, at least 1.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The draws [n, D].
        """
        self._check_built()
        n = checks.positive_integer("n", n)
        state = self.next_seed() if seed is None else tf.constant([checks.seed_number(seed), 0], tf.int32)
        return self.prior.distribution().sample(n, seed=state).numpy()

    def check_exportable(self) -> None:
        """Raises ValueError unless the model is built, and NotImplementedError if log p(x) is random."""
        self._check_built()
        if self.prior.noise_dim:
            raise NotImplementedError(
                f"A Density of a {type(self.prior).__name__} has no export, because its log p(x) is a random estimate"
            )

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError("`model` must be built: fit it, or give the prior a latent_dim. Received: a new model")

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: has no effect.
        """
        dim = self.prior.latent_dim
        data, noise = (tf.TensorSpec([None, dim], tf.float32, name) for name in ("x", "epsilon"))
        log_prob = Signature(
            lambda x: {"log_prob": self.call(x)},
            (data,),
            lambda x: {"log_prob": self.log_prob(x)},
            {"log_prob": dim},
            request=[0.0] * dim,
            meaning="the density log p(x), in nats",
        )
        sample = Signature(
            lambda epsilon: {"sample": self.prior.sample_from(epsilon)},
            (noise,),
            request=[0.0] * dim,
            meaning="a draw of p(x), by noise epsilon from N(0, I)",
        )
        return {"serving_default": log_prob, "log_prob": log_prob, "sample": sample}

    def export_weights(self) -> list[Any]:
        """The weights of the prior."""
        return list(self.prior.weights)

    def export_data(self, x: Any, rows: int | None = None) -> np.ndarray:
        """The data with which an export is compared; None draws from p(x): see `Exportable`."""
        x = self.sample(rows or _DRAWN_ROWS, seed=0) if x is None else checks.to_numpy(x)[:rows].astype(np.float32)
        self.check_data(x)
        return x

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`."""
        epsilon = np.random.default_rng(0).standard_normal(x.shape, np.float32)
        return {"serving_default": {"x": x}, "log_prob": {"x": x}, "sample": {"epsilon": epsilon}}

    def export_units(self, offset: np.ndarray, scale: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
        """Those of the data for x and for draws; log p(x) stays that of standardised data: see `Exportable`."""
        return {"x": (offset, scale), "sample": (offset, scale)}

    def export_meanings(self) -> dict[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        return {
            "x": "the data",
            "epsilon": "noise, drawn from N(0, I)",
            "log_prob": "log p(x), in nats",
            "sample": "a draw of p(x)",
        }

    def export_description(self) -> dict[str, Any]:
        """The dimension of x and the kind of the prior: see `Exportable`."""
        return {"event_shape": [self.prior.latent_dim], "prior": type(self.prior).__name__}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "prior": keras.saving.serialize_keras_object(self.prior)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Makes a model with new weights from what `get_config` returned."""
        return cls(**{**config, "prior": keras.saving.deserialize_keras_object(config["prior"], custom_objects)})
