"""`AmortizedInference`, the Keras model that learns the posterior for all data sets at once, from simulated ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, chunks, elbo
from tfvae.inference import pairs
from tfvae.inference.amortized_posterior import AmortizedPosterior
from tfvae.inference.latents import Latent, check_family
from tfvae.inference.simulating import SimulatingModel
from tfvae.inference.simulations import simulations
from tfvae.inference.typical import TypicalFeatures
from tfvae.models import parts
from tfvae.models.variational_model import VariationalModel
from tfvae.numerics import compressed
from tfvae.posteriors import Posterior, SplineFlow
from tfvae.posteriors.posterior import known_density
from tfvae.training import fit_arguments
from tfvae.training.batch import unpack_named
from tfvae.training.plan import LayerTraits

tfd = tfp.distributions

_LEARNING_RATE = 1e-3
# Gradients are shortened to this norm: that of one data set far out may be a million times those of all others.
_CLIP_NORM = 5.0
_BATCH_SIZE = 128
_STEPS_PER_EPOCH = 100
# A fit without `epochs`: online, so many epochs; on given pairs, at most so many.
_EPOCHS, _MOST_EPOCHS = 100, 1000
_PATIENCE = 20
# That of the normal prior of each weight of a kernel, in trainings on a finite number of pairs.
_PRIOR_PRECISION = 80.0
# How many pairs, at most, standardise the coordinates, and how many say which data are typical.
_STANDARDISING, _TYPICAL = 10_000, 4000
_MEAN_DRAWS = 200


@keras.saving.register_keras_serializable("tfvae")
class AmortizedInference(AmortizedPosterior, SimulatingModel, VariationalModel):
    """An approximation q(theta | x) of the posterior p(theta | x) for all data sets x, learned from simulated pairs.

    `fit` maximises E[log q(theta | x)] over pairs theta ~ p(theta), x ~ p(x | theta), and so minimises the mean of
    KL(p(theta | x) || q(theta | x)) over data sets. No likelihood is needed. The metric `log_posterior` is the mean of
    log q(theta | x), a density over the latent variables in their own units, in nats per data set.

    q is a family of distributions over the unconstrained space of the latent variables, which bijectors map to the
    constrained one: q(theta | x) = posterior(encoder(x)). The unconstrained latent variables, and the numbers of x, are
    standardised within the model by the mean and the standard deviation of the first pairs; numbers of x further than 3
    of these from the mean are compressed to their logarithms.

    Args:
        prior: p(theta): a TFP distribution of the one latent variable `theta`, or a joint distribution, whose variables
            are the latent variables by name. None if `latents` is given, and pairs are given to `fit`.
        simulator: a function `simulator(theta, seed)` that returns data sets x [B, ...], one for each of B draws, made
            of TensorFlow ops; theta [B, ...] is a tensor for a plain prior, and a dictionary of tensors by name for a
            joint distribution; seed is int32 [2], a stateless seed. Or the name of the data, if `prior` is a joint
            distribution that includes them. None if pairs are given to `fit`.
        encoder: a Keras model from x [B, ...] to features [B, F], such as `tfvae.networks.set_encoder`,
            `set_transformer` or `temporal_encoder`; None takes the numbers of x as the features.
        posterior: the family of q; None means `SplineFlow()`.
        latents: as for `tfvae.VariationalInference`; None takes the shapes and constraints of `prior`.
        log_likelihood: a function `log_likelihood(theta, x)` that returns log p(x | theta) [S] for theta [S, ...], in
            the form that `simulator` takes, and x [S, ...]. The draws then have importance weights, and k-hat. It is
            not needed for a joint distribution that includes the data.
        kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: an argument has the wrong type, or the arguments do not fit together.

    Reference: Papamakarios & Murray 2016, Fast epsilon-free Inference of Simulation Models, proposition 1; Radev et al.
    2020, BayesFlow: Learning Complex Stochastic Models with Invertible Neural Networks.
    """

    _metric_names = ("log_posterior",)
    _shown = ("posterior", "event_shape")
    _saved = ("encoder", "posterior")
    _optional = ("simulator", "log_likelihood")
    theta_loc: Any
    theta_scale: Any
    x_loc: Any
    x_scale: Any
    standardized: Any
    decay: Any

    def __init__(
        self,
        prior: tfd.Distribution | None = None,
        simulator: Callable[[Any, tf.Tensor], tf.Tensor] | str | None = None,
        encoder: keras.Model | None = None,
        posterior: Posterior | None = None,
        latents: Mapping[str, Latent | Sequence[int]] | tfd.JointDistribution | None = None,
        log_likelihood: Callable[[Any, tf.Tensor], tf.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("objective", None) is not None:
            raise ValueError(
                "`objective` must be left out: AmortizedInference maximises log q(theta | x) of simulated pairs, and "
                "has no bound with a likelihood and a KL divergence. Received: an objective"
            )
        super().__init__(**kwargs)
        given = {"prior": prior, "latents": latents, "log_likelihood": log_likelihood, "simulator": simulator}
        # Set past Keras's `__setattr__`, which would track the layers and variables inside of these.
        self.__dict__.update(_given=given, _simulations=simulations(prior, simulator, latents, log_likelihood))
        self.space = self._simulations.space
        self.encoder = None if encoder is None else parts.checked_network("encoder", encoder)
        self.posterior = parts.checked_part("posterior", posterior, Posterior, default=SplineFlow)
        check_family(self.posterior, self.space.dim)
        if not self.posterior.has_log_prob:
            raise ValueError(
                "`posterior` must have a density that can be evaluated anywhere. Received: "
                f"{type(self.posterior).__name__}, {known_density(self.posterior)}"
            )
        parts.set_latent_dim("posterior", self.posterior, self.space.dim)
        # None until the model is built.
        self.event_shape = None  # type: ignore[assignment]
        self.typical = None  # type: ignore[assignment]

    @property
    def data(self) -> str:
        """The name of the data beside the names of the latent variables, as in the pairs that `fit` takes."""
        return self._simulations.data

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data sets of one shape.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        shape = tuple(input_shape[1:])
        if self.encoder is None:
            features = keras.KerasTensor((None, math.prod(cast("tuple[int, ...]", shape))))
        else:
            declared = (parts.input_shapes(self.encoder) or [(None, *shape)])[0][1:]
            if len(declared) != len(shape) or any(
                own not in (None, size) for own, size in zip(declared, shape, strict=True)
            ):
                raise ValueError(
                    f"`encoder` must take x of shape {[None, *shape]}. Received: an encoder whose input has the shape "
                    f"{[None, *declared]}"
                )
            features = parts.features_of("encoder", self.encoder, keras.KerasTensor((None, *shape)))
            # Sizes that the encoder leaves open may differ between data sets.
            shape = tuple(declared)
        parts.build(self.posterior, features.shape)
        # One number for each size of the last axis; but the elements of a set of numbers have one in common.
        of_x = shape[-1:] if shape and shape[-1] is not None and not pairs.is_of_numbers(self.encoder) else ()
        weights = {"theta_loc": (self.space.dim,), "theta_scale": (self.space.dim,), "x_loc": of_x, "x_scale": of_x}
        # `decay` is the strength of the prior of the kernels: see `_weight_decay`.
        for name, size in {**weights, "standardized": (), "decay": ()}.items():
            given = {"shape": size, "initializer": "ones" if name.endswith("scale") else "zeros", "name": name}
            setattr(self, name, self.add_weight(**given, dtype="float32", trainable=False, autocast=False))
        self.typical = TypicalFeatures(features.shape[-1])
        self.event_shape = shape
        self.built = True

    def operations_per_example(self, layers: LayerTraits) -> float:
        """The number of floating-point operations per pair in a training step: see `Trainer`."""
        return 3.0 * layers.operations

    # What `fit` trains on

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Returns the latent variables and the data by name, or data alone, and the sample weights.

        Args:
            data: one element of the data passed to `fit`; or to `predict`, which is x alone.
        """
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, dict):
            return unpack_named(data, self._simulations.names)
        return x, sample_weight

    def check_batch(self, batch: Any, is_encoded_only: bool = False) -> None:
        """Checks pairs; or, where they are only encoded, data sets."""
        x = tf.nest.map_structure(checks.to_numpy, self.unpack(batch)[0])
        if is_encoded_only and not isinstance(x, dict):
            self._check_x(x)
        else:
            self.check_data(x)

    def check_data(self, x: Any) -> None:
        """Builds the model if it is not built yet, and raises ValueError unless x are pairs of latents and data.

        Args:
            x: the latent variables and the data by name, each [N, ...].
        """
        if not isinstance(x, dict):
            raise ValueError(
                "`x` must be None, a dictionary with the keys " + ", ".join(self._simulations.names) + ", latent "
                "variables and the data simulated from them, or a tf.data.Dataset of such. Received: x of type "
                f"{type(x).__name__}"
            )
        checks.check_same_length(**x)
        self._check_x(x[self.data])
        pairs.check_latents(self.space, x)

    def _check_x(self, x: np.ndarray) -> None:
        if self.event_shape is None:
            if x.ndim < 1:
                raise ValueError(f"`{self.data}` must have the shape [N, ...]. Received: a single number")
            with self.distribute_strategy.scope():
                self.build((None, *x.shape[1:]))
        pairs.check_shape(x, self.event_shape, self.data)
        checks.check_finite(x, self.data)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains q(theta | x) with `keras.Model.fit`, online or on given pairs.

        A model that is not compiled is compiled with Adam, for which gradients are shortened to a norm of 5. The first
        fit standardises theta and x; each ends by noting which data are typical, for the warning of `sample`. On
        arrays, weights are drawn to 0, less so the more pairs there are, against overfitting.

        Args:
            x: None simulates each batch anew; or pairs: a dictionary of arrays [N, ...] by the names of the latent
                variables and of the data (`theta` and `x` for a plain prior and a simulator); or a `tf.data.Dataset` of
                batches of such dictionaries.
            y: must be None.
            batch_size: B; None means 128.
            epochs: None trains online for 100 epochs of 100 steps; and on arrays until the loss of one tenth of the
                pairs, or of `validation_data`, has not fallen for 20 epochs, and then takes the best weights. The
                learning rate falls to 0 along a cosine online, and by steps on arrays.
            callbacks: as for `keras.Model.fit`.
            kwargs: the other arguments of `keras.Model.fit`. Online, `steps_per_epoch` is 100 unless it is given. With
                `tfvae.callbacks.Checkpoints` a training that is interrupted continues as if it had not been; on arrays,
                if `epochs` is given.

        Returns:
            The history.

        Raises:
            ValueError: the pairs are not valid, or there is no simulator.
        """
        if y is not None:
            raise ValueError(
                f"`y` must be None: x holds theta and the data by name. Received: y of type {type(y).__name__}"
            )
        fit_arguments.check_names(kwargs)
        if not self.compiled:
            with self.distribute_strategy.scope():
                self.compile(keras.optimizers.Adam(_LEARNING_RATE, global_clipnorm=_CLIP_NORM))
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or [])
        automatic = epochs is None
        online = x is None
        if online:
            for name in ("validation_split", "sample_weight"):
                if kwargs.get(name):
                    raise ValueError(f"`{name}` needs pairs as `x`. Received: x=None, {name}={kwargs[name]!r}")
            steps = checks.positive_integer("steps_per_epoch", kwargs.pop("steps_per_epoch", None) or _STEPS_PER_EPOCH)
            size = checks.positive_integer("batch_size", _BATCH_SIZE if batch_size is None else batch_size)
            x = self._online(size, steps)
            batch_size = None
        elif not isinstance(x, tf.data.Dataset):
            if not isinstance(x, dict):
                self.check_data(x)
            x = {name: checks.to_numpy(value, name) for name, value in self.unpack(x)[0].items()}
            self.check_data(x)
            batch_size = _BATCH_SIZE if batch_size is None else batch_size
        if float(self.standardized) == 0.0:
            self._standardize(self._some_pairs(x, online))
        self.decay.assign(_PRIOR_PRECISION / len(x[self.data]) if isinstance(x, dict) else 0.0)
        if automatic:
            epochs, more = pairs.automatic(self.optimizer, kwargs, online, _EPOCHS, _MOST_EPOCHS, _PATIENCE)
            callbacks += more
        rate = float(self.optimizer.learning_rate)
        try:
            history = super().fit(x, batch_size=batch_size, epochs=epochs, callbacks=callbacks, **kwargs)
        finally:
            if automatic and not pairs.has_schedule(self.optimizer):
                self.optimizer.learning_rate = rate
        # Not those before the training, which may have gone on from a checkpoint of another seed.
        self._note_typical(self._some_pairs(x, online))
        return history

    def warm_up_kl(self, start: float = 1.0, steps: int = 1) -> None:
        """Refuses a warm-up, for there is no KL divergence: see `Trainer.warm_up_kl`."""
        if start != 1.0:
            raise ValueError(
                "`callbacks` must not hold KLWarmUp: AmortizedInference has no KL divergence. Received: a warm-up from "
                f"{start}"
            )
        super().warm_up_kl(start, steps)

    def _some_pairs(self, x: Any, online: bool) -> dict[str, np.ndarray]:
        """Up to 10,000 pairs like those of the training."""
        if online:
            return {name: value.numpy() for name, value in self._simulated(_TYPICAL, self._stream_seed(2)).items()}
        some = pairs.first(x, self._simulations.names, _STANDARDISING)
        self.check_data(some)
        return some

    def _standardize(self, some: dict[str, np.ndarray]) -> None:
        z = self.space.unconstrain(some).numpy()
        loc, scale = pairs.moments(z[np.isfinite(z).all(axis=1)], 1)
        self.theta_loc.assign(loc)
        self.theta_scale.assign(scale)
        loc, scale = pairs.moments(some[self.data], len(self.x_loc.shape))
        self.x_loc.assign(loc)
        self.x_scale.assign(scale)
        self.standardized.assign(1.0)

    def _note_typical(self, some: dict[str, np.ndarray]) -> None:
        """Notes the features of up to 4000 data sets."""
        x = some[self.data][:_TYPICAL]
        features = [self._run(self._features, tf.cast(x[part], tf.float32)) for part in chunks.slices(len(x), 500)]
        self.typical.set(np.concatenate(features))

    # The density

    def elbo_terms(self, x: dict[str, tf.Tensor], sampling: elbo.Sampling) -> elbo.ElboTerms:
        """The terms of the objective, in nats per pair: log q(theta | x) [1, B] alone, and 0 for the others.

        A draw of the prior that float32 rounds to the edge of its support counts 0.

        Args:
            x: the latent variables and the data by name, each [B, ...].
            sampling: whether layers behave as in training.
        """
        log_q, is_inside = self._log_prob(x, x[self.data], sampling.training)
        log_q = tf.where(is_inside, log_q, 0.0)
        zeros = tf.zeros_like(log_q)
        return elbo.ElboTerms(
            log_q[tf.newaxis],
            zeros[tf.newaxis],
            zeros[tf.newaxis],
            zeros,
            auxiliary=zeros - self._weight_decay() if sampling.training else 0.0,
            metrics={"log_posterior": log_q},
        )

    def _weight_decay(self) -> tf.Tensor:
        """Minus the log density of a prior N(0, 1 / _PRIOR_PRECISION) of all kernels, divided by the number of pairs.

        Without it a flow fits 10,000 pairs much better than others of the same simulator. It has less weight the more
        pairs there are, and none where there is no end of them.
        """
        kernels = [variable for variable in self.trainable_variables if len(variable.shape) > 1]
        return 0.5 * self.decay * tf.add_n([tf.reduce_sum(tf.square(kernel)) for kernel in kernels])

    def _features(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The features [B, F] of data sets x [B, ...]."""
        # The scales of q are linear in features before a softplus, which would make them 0 for data sets far out.
        x = compressed((x - self.x_loc) / self.x_scale)
        if self.encoder is None:
            return tf.reshape(x, [-1, math.prod(cast("tuple[int, ...]", self.event_shape))])
        return tf.cast(self.encoder(x, training=training), tf.float32)

    def _log_prob(
        self, latents: dict[str, tf.Tensor], x: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Log q(theta | x) [B] in the units of theta, and whether theta is inside of the support [B]."""
        z = self.space.unconstrain(latents)
        is_inside = tf.reduce_all(tf.math.is_finite(z), axis=-1)
        z = tf.where(is_inside[:, tf.newaxis], z, self.theta_loc)
        distribution = self.posterior.distribution(self.posterior(self._features(x, training)))
        log_q = distribution.log_prob((z - self.theta_loc) / self.theta_scale)
        return log_q - self._log_scale() - self.space.constrain(z)[1], is_inside

    def _log_scale(self) -> tf.Tensor:
        return tf.reduce_sum(tf.math.log(self.theta_scale))

    def _constrained(self, u: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The latent variables by name [..., ...] at u [..., L], and the log determinant of the Jacobian [...]."""
        values, log_jacobian = self.space.constrain(self.theta_loc + self.theta_scale * u)
        return values, log_jacobian + self._log_scale()

    def _draw(self, x: tf.Tensor, seed: tf.Tensor, num_samples: int) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Draws latent variables by name, each [S, B, ...], for data sets x [B, ...]; and log q(theta | x) [S, B]."""
        distribution = self.posterior.distribution(self.posterior(self._features(x)))
        draws = elbo.draw(distribution, num_samples, seed=seed)
        values, log_jacobian = self._constrained(draws.z)
        return values, draws.log_posterior - log_jacobian

    def call(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The posterior means by name, each [B, ...], over 200 draws whose noise is always the same.

        Args:
            x: data sets [B, ...].
            training: has no effect.
        """
        values, _ = self._draw(tf.cast(x, tf.float32), tf.constant([0, 0]), _MEAN_DRAWS)
        return {name: tf.reduce_mean(value, axis=0) for name, value in values.items()}
