"""Variational autoencoders with several layers of latent variables; each layer sets the prior of the one below."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder, parts
from tfvae.objectives import Objective
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.priors import Prior, StandardNormal

tfd = tfp.distributions

_Parameters = dict[str, tf.Tensor]
_Pick = Callable[[int, _Parameters], tuple[tf.Tensor, tf.Tensor]]


class _Layer(NamedTuple):
    """One layer of latent variables, z_t, for N rows.

    Attributes:
        parameters: the parameters of q(z_t|...) given the layer before it in q, each [N, ...].
        z: the chosen value [N, L]: a draw from q, or the center of q.
        log_q: log q(z) [N].
        p: the prior p(z_t|z_{t+1}) given the layer above.
    """

    parameters: _Parameters
    z: tf.Tensor
    log_q: tf.Tensor
    p: tfd.Distribution


@keras.saving.register_keras_serializable("tfvae")
class HierarchicalVAE(autoencoder.Autoencoder):
    """A variational autoencoder with T layers of latent variables, z_1 next to the data.

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_T)

    q(z|x) = q(z_1|x) q(z_2|z_1) ... q(z_T|z_{T-1}), from the bottom up, or with `ladder`
    q(z|x) = q(z_T|x) q(z_{T-1}|z_T, x) ... q(z_1|z_2, x), where q(z_t|z_{t+1}, x) is proportional to the product of two
    normal densities: one computed by the encoder from x, and p(z_t|z_{t+1}).

    In `score` and in exports, epsilon is the noise of all layers, [B, L_1 + ... + L_T], with the noise of z_1 first.

    The metrics are those of `VariationalModel`, and `kl_1` to `kl_T`: E_q[log q(z_t|...) - log p(z_t|z_{t+1})] for
    each layer.

    Args:
        encoders: T Keras models that return features [B, F]: the first from x [B, ...], each other from z_{t-1} [B, L],
            or with `ladder` from the features of the encoder before.
        decoders: T Keras models: the first from z_1 to the likelihood's parameters, each other from z_t [B, L] to the
            features [B, F] from which the parameters of p(z_{t-1}|z_t) are computed.
        latent_dims: the dimensions of z_1 to z_T, at least two.
        ladder: whether q goes from the top down, and combines what the encoder computes with the prior.
        posteriors: the family of q for each layer; None means `DiagonalNormal()`, which a ladder needs.
        conditionals: the family of p(z_t|z_{t+1}) for each layer but the last, given as a `Posterior`, whose parameters
            are computed from the features of the decoder above; None means `DiagonalNormal()`, which a ladder needs.
        prior: p(z_T); None means `StandardNormal()`.
        likelihood: p(x|z_1); None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients or need draws of z. None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.
        NotImplementedError: the density of one of the conditionals is known only at its own draws.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, equations 1 and 2, for the bottom-up form; Sonderby
    et al. 2016, Ladder Variational Autoencoders.
    """

    _PARTS = ("encoders", "decoders", "posteriors", "conditionals", "prior", "likelihood", "objective")

    def __init__(
        self,
        encoders: Sequence[keras.Model],
        decoders: Sequence[keras.Model],
        latent_dims: Sequence[int],
        ladder: bool = False,
        posteriors: Sequence[Posterior] | None = None,
        conditionals: Sequence[Posterior] | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        **keras_kwargs: Any,
    ) -> None:
        if not isinstance(latent_dims, tuple | list) or len(latent_dims) < 2:
            raise ValueError(
                "`latent_dims` must hold the dimensions of at least two layers. Received: "
                f"latent_dims={checks.shown(latent_dims)}"
            )
        # Set before the base class makes the metrics, of which there is one for each layer.
        self.latent_dims = tuple(checks.positive_integer("latent_dims", dim) for dim in latent_dims)
        super().__init__(objective, **keras_kwargs)
        self.ladder = checks.boolean("ladder", ladder)
        # Without `ladder`, only the term of the last layer is a KL divergence; the others may be negative.
        layers = range(1 if ladder else len(self.latent_dims), len(self.latent_dims) + 1)
        self.collapsing = tuple(f"kl_{number}" for number in layers)
        count = len(self.latent_dims)
        self.encoders = _of_layers("encoders", encoders, count, keras.layers.Layer)
        self.decoders = _of_layers("decoders", decoders, count, keras.layers.Layer)
        family = DiagonalNormal if ladder else Posterior
        self.posteriors = _of_layers("posteriors", posteriors, count, family)
        self.conditionals = _of_layers("conditionals", conditionals, count - 1, family)
        self.prior = parts.checked_part("prior", prior, Prior, default=StandardNormal)
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        for index, dim in enumerate(self.latent_dims):
            parts.set_latent_dim(f"posteriors[{index}]", self.posteriors[index], dim)
            parts.check_bound(self, posterior=self.posteriors[index])
        for index, dim in enumerate(self.latent_dims[:-1]):
            parts.set_latent_dim(f"conditionals[{index}]", self.conditionals[index], dim)
        parts.set_latent_dim("prior", self.prior, self.latent_dims[-1])
        parts.refuse_objectives_of_z(self)
        for index, p in enumerate([*self.conditionals, self.prior]):
            name = "prior" if p is self.prior else f"conditionals[{index}]"
            parts.check_densities(self.posteriors[index], p, self.objective, name)
        parts.refuse_prior_of_encoder(self)
        self._build_where_known(self.encoders[0])

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        return [keras.metrics.Mean(name=f"kl_{number}") for number in range(1, len(self.latent_dims) + 1)]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        event_shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        z = [keras.KerasTensor((None, dim)) for dim in self.latent_dims]
        given = keras.KerasTensor((None, *event_shape))
        for index, (encoder, posterior) in enumerate(zip(self.encoders, self.posteriors, strict=True)):
            features = parts.features_of(f"encoders[{index}]", encoder, given)
            parts.build(posterior, features.shape)
            given = features if self.ladder else z[index]
        for index, conditional in enumerate(self.conditionals):
            features = parts.features_of(f"decoders[{index + 1}]", self.decoders[index + 1], z[index + 1])
            parts.build(conditional, features.shape)
        parameters = parts.likelihood_parameters_of("decoders[0]", self.decoders[0], z[0], self.likelihood, event_shape)
        parts.build(self.prior, z[-1].shape)
        parts.build(self.likelihood, parameters.shape)
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z_1), where each layer of q is at its mean given the one before.

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        return self.likelihood.mean(self.decoders[0](self._at_noise(x, None, training)[0].z, training=training))

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`.

        The KL divergence of a layer is in closed form if no layer that its prior depends on was drawn given that layer.
        """
        return self._terms_at(x, self._draw(x, sampling), sampling)[0]

    def inference_parts(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        """The encoder and the posterior of each layer."""
        return list(zip(self.encoders, self.posteriors, strict=True))

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoders and of the posteriors."""
        return [variable for part in (*self.encoders, *self.posteriors) for variable in part.trainable_variables]

    def decode(self, z: Any, layer: int = 1, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z_1). From a higher layer, each layer below it is at the mean of p(z_t|z_{t+1}).

        Args:
            z: an array [N, L], the latent variables of one layer.
            layer: the number of that layer, from 1, next to the data, to T.
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        if layer not in range(1, len(self.latent_dims) + 1) or isinstance(layer, bool | float):
            raise ValueError(
                f"`layer` must be from 1 to {len(self.latent_dims)}. Received: layer={checks.shown(layer)}"
            )
        z = self._checked_noise("z", z, self.latent_dims[layer - 1])
        return self._decoded(z, batch_size=batch_size, layer=layer)

    def generate(self, n: int, seed: int | None = None, batch_size: int = 256, sample: bool = False) -> np.ndarray:
        """Draws z_T ~ p(z_T), then each z_t ~ p(z_t|z_{t+1}), and computes the mean of p(x|z_1).

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        n = checks.positive_integer("n", n)
        state = self._seed(seed)
        seeds = tf.random.experimental.stateless_split(state, len(self.latent_dims))
        z = self.prior.distribution().sample(n, seed=seeds[-1])
        for index in reversed(range(len(self.conditionals))):
            z = self.conditionals[index].distribution(self._prior_parameters(index, z)).sample(seed=seeds[index])
        return self._generated(z.numpy(), batch_size=batch_size, sample=sample, seed=state)

    def _encode(self, x: tf.Tensor, training: bool = False) -> _Parameters:
        """The parameters of each layer of q, named like loc_1, given that the layer before it in q is at its center."""
        layers = enumerate(self._at_noise(x, None, training), start=1)
        return {f"{name}_{number}": value for number, layer in layers for name, value in layer.parameters.items()}

    def _decode(self, z: tf.Tensor, layer: int = 1) -> tf.Tensor:
        for index in reversed(range(layer - 1)):
            z = self.conditionals[index].center(self._prior_parameters(index, z))
        return super()._decode(z)

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return "decoders[0]", self.decoders[0]

    def _parameters_of_x(self, z: tf.Tensor) -> tf.Tensor:
        return self.decoders[0](z, training=False)

    def _prior_parameters(self, index: int, above: tf.Tensor, training: bool = False) -> _Parameters:
        """The parameters of p(z_t|z_{t+1}), t counted from 0."""
        return self.conditionals[index](self.decoders[index + 1](above, training=training))

    def _terms_at(
        self, x: tf.Tensor, layers: list[_Layer], sampling: elbo.Sampling
    ) -> tuple[elbo.ElboTerms, tf.Tensor]:
        """The terms of the bound, and the output of the first decoder for S * B rows."""
        shape = [sampling.num_samples, -1]
        log_prior = [tf.reshape(layer.p.log_prob(layer.z), shape) for layer in layers]
        log_posterior = [tf.reshape(layer.log_q, shape) for layer in layers]
        kls = []
        for index, layer in enumerate(layers):
            has_form = sampling.analytic_kl and (self.ladder or index == len(layers) - 1)
            q = self.posteriors[index].distribution(layer.parameters)
            kl = elbo.closed_form_kl(q, layer.p) if has_form else None
            kl = log_posterior[index] - log_prior[index] if kl is None else tf.reshape(kl, shape)
            kls.append(tf.reduce_mean(kl, axis=0))
        parameters = self.decoders[0](layers[0].z, training=sampling.training)
        # In an export, the single sample has no axis of its own, because with it, images would have five axes, of which
        # GPUs of devices take four. In training, likelihoods need the axis.
        by_sample = parameters
        if sampling.training or sampling.num_samples > 1:
            by_sample = tf.reshape(parameters, tf.concat([shape, tf.shape(parameters)[1:]], 0))
        observed = x if sampling.target is None else sampling.target
        terms = elbo.ElboTerms(
            tf.reshape(self.likelihood.log_prob(observed, by_sample, training=sampling.training), shape),
            tf.add_n(log_prior),
            tf.add_n(log_posterior),
            tf.add_n(kls),
            metrics={f"kl_{number}": kl for number, kl in enumerate(kls, start=1)},
            # From the bottom up, the terms of the lower layers are no divergences.
            kl_by_layer=tf.stack(kls, axis=-1) if self.ladder else None,
        )
        return terms, parameters

    @property
    def _z_dim(self) -> int:
        return self.latent_dims[0]

    @property
    def _epsilon_dim(self) -> int:
        return sum(self.latent_dims)

    @property
    def _description(self) -> dict[str, Any]:
        lists = {name: [type(part).__name__ for part in getattr(self, name)] for name in ("posteriors", "conditionals")}
        kinds = {name: type(getattr(self, name)).__name__ for name in ("prior", "likelihood")}
        return {"latent_dims": list(self.latent_dims), "ladder": self.ladder, **lists, **kinds}

    def _at_noise(self, x: tf.Tensor, epsilon: tf.Tensor | None, training: bool = False) -> list[_Layer]:
        """The layers at draws made from noise [B, L_1 + ... + L_T], that of z_1 first; None means at the centers."""
        count = len(self.latent_dims)
        noise = [None] * count if epsilon is None else tf.split(epsilon, self.latent_dims, axis=-1)

        def pick(index: int, parameters: _Parameters) -> tuple[tf.Tensor, tf.Tensor]:
            return self.posteriors[index].sample_and_log_prob_from(parameters, noise[index])

        return self._walk(x, pick, 1, training)

    def _from_posterior(self, x: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
        return self._at_noise(x, epsilon)[0].z

    def _from_prior(self, epsilon: tf.Tensor) -> tf.Tensor:
        noise = tf.split(epsilon, self.latent_dims, axis=-1)
        z = self.prior.sample_from(noise[-1])
        for index in reversed(range(len(self.conditionals))):
            z = self.conditionals[index].sample_from(self._prior_parameters(index, z), noise[index])
        return z

    def _scored(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        sampling = elbo.Sampling(1, tf.zeros([2], tf.int32))
        terms, parameters = self._terms_at(x, self._at_noise(x, epsilon), sampling)
        return self._scores(terms), parameters

    def _draw_for_prior(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws the z [B, L_T] of the last layer, whose prior is the part `prior`."""
        return self._draw(x, elbo.Sampling(1, seed))[-1].z

    def _draw(self, x: tf.Tensor, sampling: elbo.Sampling) -> list[_Layer]:
        """The layers at S draws for each example, in one batch of S * B rows."""
        seeds = tf.random.experimental.stateless_split(sampling.seed, len(self.latent_dims))

        def pick(index: int, parameters: _Parameters) -> tuple[tf.Tensor, tf.Tensor]:
            q = self.posteriors[index].distribution(parameters)
            return q.experimental_sample_and_log_prob(seed=seeds[index])

        return self._walk(x, pick, sampling.num_samples, sampling.training)

    def _walk(self, x: tf.Tensor, pick: _Pick, num_samples: int, training: bool) -> list[_Layer]:
        """The layers, z_1 first. `pick` chooses the z of a layer from its index and the parameters of its q."""
        make = self._ladder_layers if self.ladder else self._bottom_up_layers
        return make(x, pick, num_samples, training)

    def _bottom_up_layers(self, x: tf.Tensor, pick: _Pick, num_samples: int, training: bool) -> list[_Layer]:
        features = self.encoders[0](self.likelihood.encoder_input(x), training=training)
        picked, z = [], None
        for index, posterior in enumerate(self.posteriors):
            if index:
                features = self.encoders[index](z, training=training)
            parameters = posterior(features)
            if not index:
                parameters = _repeated(parameters, num_samples)
            z, log_q = pick(index, parameters)
            picked.append((parameters, z, log_q))
        above = [z for _, z, _ in picked[1:]] + [None]
        return [_Layer(*layer, self._prior_given(index, above[index], training)) for index, layer in enumerate(picked)]

    def _ladder_layers(self, x: tf.Tensor, pick: _Pick, num_samples: int, training: bool) -> list[_Layer]:
        features, said = self.likelihood.encoder_input(x), []
        for encoder, posterior in zip(self.encoders, self.posteriors, strict=True):
            features = encoder(features, training=training)
            said.append(_repeated(posterior(features), num_samples))
        layers: list[Any] = []
        above = None
        for index in reversed(range(len(said))):
            parameters = said[index]
            p = self._prior_given(index, above, training)
            if above is not None:
                parameters = _merged(parameters, self._prior_parameters(index, above, training))
            z, log_q = pick(index, parameters)
            layers.insert(0, _Layer(parameters, z, log_q, p))
            above = z
        return layers

    def _prior_given(self, index: int, above: tf.Tensor | None, training: bool) -> tfd.Distribution:
        if above is None:
            return self.prior.distribution()
        return self.conditionals[index].distribution(self._prior_parameters(index, above, training))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dims": self.latent_dims, "ladder": self.ladder}


def _merged(said: _Parameters, prior: _Parameters) -> _Parameters:
    """The parameters of the normal distribution whose density is proportional to the product of these two."""
    precisions = said["scale"] ** -2, prior["scale"] ** -2
    variance = 1 / (precisions[0] + precisions[1])
    loc = variance * (said["loc"] * precisions[0] + prior["loc"] * precisions[1])
    return {"loc": loc, "scale": tf.sqrt(variance)}


def _repeated(parameters: _Parameters, num_samples: int) -> _Parameters:
    """The parameters repeated for S * B rows: all B rows, S times over."""
    return {name: tf.tile(value, [num_samples] + [1] * (len(value.shape) - 1)) for name, value in parameters.items()}


def _of_layers(name: str, given: Any, count: int, kind: type) -> list[Any]:
    """Returns the `count` given parts, after checking them; for families, None means a `DiagonalNormal` per layer."""
    if given is None and kind is not keras.layers.Layer:
        return [DiagonalNormal() for _ in range(count)]
    if not isinstance(given, tuple | list) or len(given) != count:
        raise ValueError(
            f"`{name}` must hold {count} parts, to match `latent_dims`. Received: {name}={checks.shown(given)}"
        )
    for index, part in enumerate(given):
        if kind is keras.layers.Layer:
            parts.checked_network(f"{name}[{index}]", part)
        else:
            parts.checked_part(f"{name}[{index}]", part, kind)
            if any(part is other for other in given[:index]):
                # One part in two places would share its heads between layers.
                raise ValueError(
                    f"`{name}` must hold one distinct part per layer. Received: {checks.shown(part)} more than once"
                )
    return list(given)
