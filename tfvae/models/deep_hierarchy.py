"""A variational autoencoder with many groups of latent pictures, which share one state from the top down."""

import math
from collections.abc import Sequence
from typing import Any, Self, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder, parts
from tfvae.objectives import Objective

tfd = tfp.distributions

_MOST_LOG_SCALE = 5.0  # log scales are kept within this distance from 0, by tanh
_START = 0.1  # the standard deviation of the numbers with which the learned state starts


@keras.saving.register_keras_serializable("tfvae")
class DeepHierarchicalVAE(autoencoder.Autoencoder):
    """A variational autoencoder with T groups of latent pictures from the top down: z_T, ..., z_1, next to the data.

    p(x, z) = p(x|h_0) product over t of p(z_t|h_t),  h_T learned,  h_{t-1} = decoder_t(h_t, z_t)
    p(z_t|h_t) = N(loc(h_t), scale(h_t)^2)
    q(z_t|h_t, x) = N(loc(h_t) + scale(h_t) a, (scale(h_t) b)^2),  a and log b functions of h_t and of features of x

    q and p share the state h. q is relative to p, so that it starts close to it, and

        KL(q(z_t|h_t, x) || p(z_t|h_t)) = sum of (a^2 + b^2 - 1) / 2 - log b

    In this class z always stands for the standardised variables u_t = (z_t - loc(h_t)) / scale(h_t), flattened and one
    group after the other, the top one first: [B, L], with p(u) = N(0, I). The bound is the same.

    The metrics are those of `VariationalModel`, and `kl_1` to `kl_T`, the divergence of each group.

    Args:
        encoder: a Keras model from x [B, ...] to a list of T features, the top one first: see `tfvae.networks.ladder`,
            which makes the networks.
        prior_networks: T Keras models from h [B, H, W, C] to 2 D channels: loc and log scale of p(z_t|h_t).
        posterior_networks: T Keras models from h and the features of the group to 2 D channels: a and log b.
        decoders: T Keras models from h and z [B, H, W, D] to the next h, and at last to the parameters of p(x|h_0).
        likelihood: p(x|h_0); None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients or need draws of z. None means `ELBO()`.
        max_gradient_norm: a training step whose gradient has a larger norm, in nats per example, is skipped: the
            optimizer is given zeros. The metric `skipped` is the share of such steps. None never skips.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.

    Reference: Vahdat & Kautz 2020, NVAE, sections 3.1 and 3.2, with a in units of the prior's scale; Child 2021, Very
    Deep VAEs, section 3; Kingma et al. 2016, Inverse Autoregressive Flow, for the bidirectional inference.
    """

    _PARTS = ("encoder", "prior_networks", "posterior_networks", "decoders", "likelihood", "objective")

    def __init__(
        self,
        encoder: keras.Model,
        prior_networks: Sequence[keras.Model],
        posterior_networks: Sequence[keras.Model],
        decoders: Sequence[keras.Model],
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        max_gradient_norm: float | None = None,
        **keras_kwargs: Any,
    ) -> None:
        self.max_gradient_norm = None
        if max_gradient_norm is not None:
            self.max_gradient_norm = checks.positive_number("max_gradient_norm", max_gradient_norm)
        checked_decoders = _checked("decoders", decoders)
        # Set before the base class makes the metrics, of which there is one for each group.
        self.num_groups = len(checked_decoders)
        self.collapsing = tuple(f"kl_{number}" for number in range(self.num_groups, 0, -1))
        super().__init__(objective, **keras_kwargs)
        self.encoder = parts.checked_network("encoder", encoder)
        self.prior_networks = _checked("prior_networks", prior_networks, self.num_groups)
        self.posterior_networks = _checked("posterior_networks", posterior_networks, self.num_groups)
        self.decoders = checked_decoders
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        parts.refuse_objectives_of_z(self)
        # The learned state from which the walk starts; None until the model is built.
        self.start: Any = None
        self.latent_shapes: list[tuple[int, ...]] = []
        self._build_where_known(encoder)

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        names = [*self.collapsing, *([] if self.max_gradient_norm is None else ["skipped"])]
        return [keras.metrics.Mean(name=name) for name in names]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the networks for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        event_shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        features = self.encoder(keras.KerasTensor((None, *event_shape)))
        parts.freeze_within(self.encoder)
        if not isinstance(features, list | tuple) or len(features) != self.num_groups:
            raise ValueError(
                f"`encoder` must give a list of {self.num_groups} features, one for each of `decoders`. Received: an "
                f"encoder that gives {parts.describe(features)}"
            )
        declared = parts.input_shapes(self.decoders[0])
        if declared is None or len(declared) != 2 or None in declared[0][1:]:
            raise ValueError(
                "`decoders[0]` must declare two inputs, h and z, with their shapes, as a functional Keras model does. "
                f"Received: a network whose inputs have the shapes {declared}"
            )
        h, latent_shapes = keras.KerasTensor(declared[0]), []
        groups = zip(features, self.prior_networks, self.posterior_networks, self.decoders, strict=True)
        for index, (of_group, prior, posterior, decoder) in enumerate(groups):
            parts.check_named_inputs(f"prior_networks[{index}]", prior, h=h)
            parts.check_named_inputs(f"posterior_networks[{index}]", posterior, h=h, features=of_group)
            p, q = prior(h), posterior([h, of_group])
            shape, shape_of_q = (getattr(each, "shape", None) for each in (p, q))
            if shape is None or shape != shape_of_q or shape[-1] % 2:
                raise ValueError(
                    f"`prior_networks[{index}]` and `posterior_networks[{index}]` must give loc and log scale side by "
                    "side, the same even number of channels. Received: networks that give "
                    f"{parts.describe(p)} and {parts.describe(q)}"
                )
            latent_shapes.append((*shape[1:-1], shape[-1] // 2))
            inputs = [h, keras.KerasTensor((None, *latent_shapes[-1]))]
            parts.check_named_inputs(f"decoders[{index}]", decoder, h=h, z=inputs[1])
            h = decoder(inputs)
            for network in (prior, posterior, decoder):
                parts.freeze_within(network)
        parameters = parts.likelihood_parameters_of(*self._decoder_of_x, inputs, self.likelihood, event_shape)
        parts.build(self.likelihood, parameters.shape)
        small = keras.initializers.RandomNormal(stddev=_START)
        self.start = self.add_weight(
            name="start", shape=declared[0][1:], initializer=small, dtype="float32", autocast=False
        )
        self.latent_shapes = latent_shapes
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z) with each group of q at its mean given those above.

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        return self.likelihood.mean(self._walk(x, None, training=training)[1])

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`.

        The KL divergence of a group is in closed form, given the draws of the groups above.
        """
        noise = tf.random.stateless_normal([sampling.num_samples * tf.shape(x)[0], self._z_dim], sampling.seed)
        return self._terms_at(x, *self._walk(x, noise, sampling.num_samples, sampling.training), sampling)

    def inference_parts(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        """The encoder with the posterior network of each group."""
        return [(self.encoder, network) for network in self.posterior_networks]

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder and of the posterior networks."""
        networks = [self.encoder, *self.posterior_networks]
        return [variable for network in networks for variable in network.trainable_variables]

    def decode(self, z: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            z: an array [N, L], the standardised variables of all groups, the top one first.
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        return self._decoded(self._checked_noise("z", z, self._z_dim), batch_size=batch_size)

    def generate(
        self, n: int, seed: int | None = None, batch_size: int = 256, sample: bool = False, temperature: float = 1.0
    ) -> np.ndarray:
        """Draws z_t ~ p(z_t|h_t) from the top down, and computes the mean of p(x|z).

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.
            temperature: the factor of the scale of each p(z_t|h_t): below 1 examples vary less, and are more typical.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        n = checks.positive_integer("n", n)
        temperature = checks.number("temperature", temperature, 0)
        state = self._seed(seed)
        z = temperature * tf.random.stateless_normal([n, self._z_dim], state)
        return self._generated(z.numpy(), batch_size=batch_size, sample=sample, seed=state)

    def _walk(
        self, x: tf.Tensor | None, noise: tf.Tensor | None, num_samples: int = 1, training: bool = False
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """From the top down: loc and scale of q(u|x), and u, each [S * B, L], and the parameters of p(x|z).

        u = loc + scale * noise, or loc without noise. Without x, u is the noise, and there is nothing but parameters.
        """
        features = None if x is None else self.encoder(self.likelihood.encoder_input(x), training=training)
        rows = tf.shape(noise)[0] if x is None else num_samples * tf.shape(x)[0]
        start = tf.cast(self.start, self.decoders[0].compute_dtype)
        h = tf.tile(start[tf.newaxis], [rows, *[1] * start.shape.rank])
        of_groups = [0.0] * self.num_groups if noise is None else self._by_group(noise)
        found = []
        for index, (u, decoder) in enumerate(zip(of_groups, self.decoders, strict=True)):
            if features is not None:
                given = features[index]
                given = tf.tile(given, [num_samples, *[1] * (given.shape.rank - 1)]) if num_samples > 1 else given
                loc, scale = self._loc_and_scale(index, self.posterior_networks[index]([h, given], training=training))
                u = loc + scale * u
                found.append((loc, scale, u))
            loc, scale = self._loc_and_scale(index, self.prior_networks[index](h, training=training))
            z = tf.reshape(loc + scale * u, [-1, *self.latent_shapes[index]])
            h = decoder([h, z], training=training)
        return [tf.concat(each, axis=-1) for each in zip(*found, strict=True)], tf.cast(h, tf.float32)

    def _loc_and_scale(self, index: int, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loc and scale, each [N, K], from the output of a network of p or q."""
        halves = tf.split(tf.cast(outputs, tf.float32), 2, axis=-1)
        loc, raw = (tf.reshape(each, [-1, self._sizes[index]]) for each in halves)
        return loc, tf.exp(_MOST_LOG_SCALE * tf.tanh(raw / _MOST_LOG_SCALE))

    def _terms_at(
        self, x: tf.Tensor, of_q: list[tf.Tensor], parameters: tf.Tensor, sampling: elbo.Sampling
    ) -> elbo.ElboTerms:
        """The terms of the bound from what `_walk` returned."""
        shape, (loc, scale, u) = [sampling.num_samples, -1], of_q
        q, p = tfd.Normal(loc, scale), tfd.Normal(tf.zeros_like(loc), 1.0)
        log_posterior, log_prior = q.log_prob(u), p.log_prob(u)
        elements = q.kl_divergence(p) if sampling.analytic_kl else log_posterior - log_prior
        kls = tf.stack([tf.reduce_sum(each, axis=-1) for each in self._by_group(elements)], axis=-1)
        kls = tf.reduce_mean(tf.reshape(kls, [*shape, self.num_groups]), axis=0)
        # As in `HierarchicalVAE`: in an export, images would have five axes, of which GPUs of devices take four.
        if sampling.training or sampling.num_samples > 1:
            parameters = tf.reshape(parameters, [*shape, *parameters.shape[1:]])
        observed = x if sampling.target is None else sampling.target
        return elbo.ElboTerms(
            tf.reshape(self.likelihood.log_prob(observed, parameters, training=sampling.training), shape),
            tf.reshape(tf.reduce_sum(log_prior, axis=-1), shape),
            tf.reshape(tf.reduce_sum(log_posterior, axis=-1), shape),
            tf.reduce_sum(kls, axis=-1),
            metrics={f"kl_{self.num_groups - index}": kl for index, kl in enumerate(tf.unstack(kls, axis=-1))},
            kl_by_layer=kls,
        )

    def _encode(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """`loc` and `scale` of q(u|x) [B, L], given that each group above is at its mean."""
        loc, scale, _ = self._walk(x, None, training=training)[0]
        return {"loc": loc, "scale": scale}

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return f"decoders[{self.num_groups - 1}]", self.decoders[-1]

    def _parameters_of_x(self, z: tf.Tensor) -> tf.Tensor:
        return self._walk(None, z)[1]

    def _by_group(self, z: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(z, self._sizes, axis=-1)

    def _from_posterior(self, x: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
        return self._walk(x, epsilon)[0][-1]

    def _from_prior(self, epsilon: tf.Tensor) -> tf.Tensor:
        return epsilon

    def _scored(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        of_q, parameters = self._walk(x, epsilon)
        terms = self._terms_at(x, of_q, parameters, elbo.Sampling(1, tf.zeros([2], tf.int32)))
        return self._scores(terms), parameters

    def export_weights(self) -> list[Any]:
        """The weights of all parts, and the state from which the walk starts."""
        return [*super().export_weights(), self.start]

    def in_float32(self) -> Self:
        """The model itself, or a copy in float32: see `AutoencoderExport`."""
        copy = super().in_float32()
        copy.start.assign(self.start)
        return copy

    @property
    def _sizes(self) -> list[int]:
        """K of each group."""
        return [math.prod(shape) for shape in self.latent_shapes]

    @property
    def _z_dim(self) -> int:
        return sum(self._sizes)

    _epsilon_dim = _z_dim

    @property
    def _description(self) -> dict[str, Any]:
        return {"latent_shapes": [*map(list, self.latent_shapes)], "likelihood": type(self.likelihood).__name__}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "max_gradient_norm": self.max_gradient_norm}


def _checked(name: str, networks: Any, count: int | None = None) -> list[keras.layers.Layer]:
    """The networks of all groups, of which there are as many as of the decoders."""
    if not isinstance(networks, tuple | list) or len(networks) != (count or max(1, len(networks))):
        raise ValueError(
            f"`{name}` must be a list of {count or ''}{' ' * bool(count)}Keras models, one for each group of latent "
            f"variables, as tfvae.networks.ladder makes them. Received: {name}={checks.shown(networks)}"
        )
    return [parts.checked_network(f"{name}[{index}]", each) for index, each in enumerate(networks)]
