"""The autoregressive variational autoencoder of sequences, such as texts, in which each step sees the ones before."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.data.vocabulary import Vocabulary, are_texts
from tfvae.likelihoods import Categorical, Likelihood, Missing
from tfvae.models import critics, parts, steps, suitability, text_inputs
from tfvae.models.autoregressive_export import AutoregressiveExport
from tfvae.models.vae import VAE
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior

# What the seed of the dropped steps is derived from that of the draws of z by.
_OF_DROPOUT = 2
# At most so many steps of so many sequences of the data show whether the decoder sees a step that it is to predict.
_SHOWN_STEPS = 16
_SHOWN_ROWS = 4096


@keras.saving.register_keras_serializable("tfvae")
class AutoregressiveVAE(AutoregressiveExport, VAE):  # type: ignore[misc]  # Some methods take a temperature instead.
    """A variational autoencoder of sequences of any length, each step of which depends on z and on those before it.

    p(x|z) = product over t of p(x_t | x_1, ..., x_{t-1}, z),  with one z for a sequence

    x has the shape [B, T, C], where T may differ from batch to batch. NaN after the end of a sequence is padding, which
    adds exactly 0 nats, where the likelihood is `Missing(..., fill=False)`. Texts are codes [B, T, 1] of a
    `Vocabulary`; with `vocabulary` all methods take lists of `str` in the place of x, and give them.

    The decoder can often predict a step from those before it so well that it never learns to use z, and KL(q || p)
    falls to 0. Against this, train with `tfvae.callbacks.KLWarmUp` and `word_dropout`.

    Args:
        encoder: a Keras model from x [B, T, C] to features [B, F], for any T.
        decoder: a Keras model from the list of z [B, L] and the steps before, [B, T, C], to the parameters of the
            likelihood of one step, [B, T, P], for any T. The steps before are x shifted by one: at t they are x_{t-1},
            and NaN at the first one, for what is dropped, and for padding. What it gives at t may depend on them up to
            t only, which is checked before the training.
        latent_dim: L, the dimension of z.
        posterior: see `tfvae.VAE`.
        prior: see `tfvae.VAE`; it must not be made of q(z|x), as `VampPrior` is.
        likelihood: p(x_t | x_1, ..., x_{t-1}, z), that of one step; None means `Normal(scale=1.0)` or, with a
            vocabulary, `Missing(Categorical(vocabulary.num_classes), fill=False)`.
        objective: see `tfvae.VAE`.
        vocabulary: what the codes of texts stand for; it is saved with the model and its exports.
        length: the most steps of what is generated, if the methods are given none, and the number of steps in exports
            of fixed size; None means that of the first batch of the first training.
        word_dropout: the probability that a training step does not show the decoder a step before, from 0 to below 1.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, sections 2 and 3.
    """

    completes = False
    _no_detection = "the steps of sequences of any length have no typical score; use `score`, which has that of steps"

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        vocabulary: Vocabulary | None = None,
        length: int | None = None,
        word_dropout: float = 0.0,
        **keras_kwargs: Any,
    ) -> None:
        # Set before the parts, because the constructor of the base class may call `build`.
        vocabulary = Vocabulary.from_config(vocabulary) if isinstance(vocabulary, Mapping) else vocabulary
        self.vocabulary = _checked_vocabulary(vocabulary)
        self.length = None if length is None else checks.positive_integer("length", length)
        self.word_dropout = checks.number("word_dropout", word_dropout, 0)
        if self.word_dropout >= 1:
            raise ValueError(f"`word_dropout` must be below 1. Received: word_dropout={checks.shown(word_dropout)}")
        if likelihood is None and vocabulary is not None:
            likelihood = Missing(Categorical(vocabulary.num_classes), fill=False)
        super().__init__(
            encoder, decoder, latent_dim, posterior, prior, likelihood, objective, table=None, **keras_kwargs
        )
        parts.check_bound(self, likelihood=self.likelihood)
        self.takes_units = vocabulary is None
        if isinstance(self.likelihood, Missing) and self.likelihood.fill:
            raise ValueError(
                "`likelihood` must be Missing(..., fill=False), so that the encoder sees where a sequence ends. "
                "Received: fill=True"
            )
        if vocabulary is not None and self.likelihood.mean_shape((1,)) != (1, vocabulary.num_classes):
            raise ValueError(
                f"`likelihood` must be of the codes of the vocabulary, such as "
                f"Missing(Categorical({vocabulary.num_classes}), fill=False). Received: "
                f"{checks.shown(self.likelihood)}"
            )

    @classmethod
    def of_table(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: the rows of a table are no sequences."""
        raise TypeError("An AutoregressiveVAE is of sequences, not of the rows of a table: use tfvae.VAE.of_table")

    def of_rows(self, data: Any) -> Any:
        """Converts texts to codes [N, T, 1], if the model has a vocabulary: see `CheckingModel`."""
        if self.vocabulary is not None:
            data = text_inputs.listed(data)
        return data if self.vocabulary is None or not are_texts(data) else self.vocabulary.encode(list(data))

    def _build_where_known(self, encoder: keras.Model) -> None:
        """Builds the model at once if the encoder declares the number of channels."""
        declared = parts.input_shapes(encoder)
        if declared is not None and len(declared[0]) == 3 and declared[0][2] is not None:
            self.build(declared[0])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for sequences of a number of channels, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, T, C], where T has no effect.
        """
        if self.event_shape is not None:
            return
        if len(input_shape) != 3:
            raise ValueError(
                "`x` must have the shape [N, T, C]: N sequences of T steps, each of C numbers; codes have C=1. "
                f"Received: x of shape {list(input_shape)}"
            )
        event_shape = (None, input_shape[2])
        expected = {"encoder": [event_shape], "decoder": [(self.latent_dim,), event_shape]}
        for name, takes in (("encoder", "x [B, T, C]"), ("decoder", "the list of z [B, L] and the steps before")):
            declared = parts.input_shapes(getattr(self, name))
            if declared is not None and [tuple(shape[1:]) for shape in declared] != expected[name]:
                raise ValueError(
                    f"`{name}` must take {takes}, for any number of steps, which are inputs of the shapes "
                    f"{[[None, *shape] for shape in expected[name]]}. Received: inputs of the shapes "
                    f"{[list(shape) for shape in declared]}"
                )
        x = keras.KerasTensor((None, *event_shape))
        features = parts.features_of("encoder", self.encoder, x)
        z = keras.KerasTensor((None, self.latent_dim))
        parameters = parts.likelihood_parameters_of("decoder", self.decoder, [z, x], self.likelihood, event_shape)
        parts.refuse_prior_of_encoder(self)
        for part, shape in (
            (self.posterior, features.shape),
            (self.prior, (None, self.latent_dim)),
            # Of one step, so that every likelihood can be one over time.
            (self.likelihood, (None, parameters.shape[-1])),
        ):
            parts.build(part, shape)
        critics.build(self, self.latent_dim)
        # Set through __dict__, because Keras would save the decoder a second time.
        self.__dict__["_one_step"] = steps.one_step_of(self.decoder)
        self.event_shape = event_shape

    def check_training(self, batch: Any) -> None:
        """Checks that the decoder sees no step that it is to predict, and that it suits the likelihood.

        Args:
            batch: one element of valid data as `fit` takes them.
        """
        super().check_training(batch)
        x, target = self.unpack(batch)[0], self.target(batch)
        x = checks.to_numpy(x if target is None else target)
        if self.length is None:
            self.length = int(x.shape[1])
        z = np.asarray(self._example_z(_SHOWN_STEPS), np.float32)
        shown = x[np.arange(_SHOWN_STEPS) % len(x), :_SHOWN_STEPS].astype(np.float32)
        outputs = steps.checked_causal(self.decoder, z, np.asarray(steps.previous(tf.constant(shown))))
        x = x[:: -(-len(x) // _SHOWN_ROWS)]
        suitability.check(
            "decoder",
            self.decoder,
            lambda: outputs.reshape(-1, outputs.shape[-1]),
            self.likelihood,
            x.reshape(-1, x.shape[-1]),
        )

    @property
    def _decoder_of_x(self) -> None:
        # The base class would check it as one of whole examples.
        return None

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per sequence: see `VariationalModel.elbo_terms`."""
        event = x if sampling.target is None else sampling.target
        previous = steps.previous(event)
        if sampling.training and self.word_dropout:
            seed = tf.random.experimental.stateless_fold_in(sampling.seed, _OF_DROPOUT)
            previous = steps.dropped(previous, self.word_dropout, seed)

        def log_likelihood(z: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(self._nats_of_steps(event, z, previous, sampling.training)[0], axis=-1)

        posterior = self._posterior_of(x, sampling.training)
        return elbo.estimate(posterior, self._prior_given(), log_likelihood, sampling)

    def _nats_of_steps(
        self, x: tf.Tensor, z: tf.Tensor, previous: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The terms log p(x_t | x_1, ..., x_{t-1}, z) [S, B, T], in nats, and the decoder's outputs [S, B T, P].

        Args:
            x: the sequences [B, T, C].
            z: the latent variables [S, B, L].
            previous: the steps before [B, T, C].
            training: whether layers such as dropout behave as in training.
        """
        number, rows, length = tf.shape(z)[0], tf.shape(x)[0], tf.shape(x)[1]
        tiled = previous if z.shape[0] == 1 else tf.tile(previous, [number, 1, 1])
        parameters = self.decoder([tf.reshape(z, [-1, self.latent_dim]), tiled], training=training)
        parameters = tf.reshape(parameters, [number, rows * length, parameters.shape[-1]])
        nats = self.likelihood.log_prob(tf.reshape(x, [-1, x.shape[-1]]), parameters, training=training)
        return tf.reshape(nats, [number, rows, length]), parameters

    def _scored(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        encoded = self._encode(x)
        z, log_posterior = self.posterior.sample_and_log_prob_from(encoded, epsilon)
        nats, parameters = self._nats_of_steps(x, z[tf.newaxis], steps.previous(x))
        terms = elbo.terms_at(
            z[tf.newaxis],
            None if log_posterior is None else log_posterior[tf.newaxis],
            self.posterior.distribution(encoded),
            self._prior_given(),
            lambda _: tf.reduce_sum(nats, axis=-1),
        )
        return {**self._scores(terms), "step_log_likelihood": nats[0]}, parameters[0]

    def score(
        self, x: Any, epsilon: Any = None, batch_size: int = 256, *, seed: int | None = None
    ) -> dict[str, np.ndarray]:
        """Computes the terms of the bound at a single z for each sequence: see `Autoencoder.score`.

        Returns:
            `elbo`, `reconstruction_log_likelihood` and `kl`, each [N], and `step_log_likelihood` [N, T], the terms
            log p(x_t | x_1, ..., x_{t-1}, z) of the second, all in nats. That of padding is 0.
        """
        return super().score(x, epsilon, batch_size, seed=seed)

    @property
    def _description(self) -> dict[str, Any]:
        own = {} if self.vocabulary is None else {"vocabulary": self.vocabulary.get_config()}
        return {**super()._description, "length": self.length, **own}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        vocabulary = {} if self.vocabulary is None else {"vocabulary": self.vocabulary.get_config()}
        own = {"length": self.length, "word_dropout": self.word_dropout}
        return {**super().get_config(), **own, **vocabulary}


def _checked_vocabulary(vocabulary: Any) -> Vocabulary | None:
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        raise ValueError(f"`vocabulary` must be a tfvae.data.Vocabulary. Received: {checks.shown(vocabulary)}")
    return vocabulary
