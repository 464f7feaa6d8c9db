"""A variational autoencoder for data of which only some are labelled; it learns to classify the others."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo, numerics, private_apis
from tfvae.exportable import Arrays
from tfvae.likelihoods import Likelihood
from tfvae.models import parts
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.vae import VAE
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior
from tfvae.training.batch import batches, check_ends, unpack, unpack_named


@keras.saving.register_keras_serializable("tfvae")
class SemiSupervisedVAE(ConditionalVAE):
    """A variational autoencoder of x and a label y, which is known for some examples only: the model M2.

    q(y|x) = softmax(classifier(x)),  q(z|x, y) = posterior(encoder([x, y])),  p(x|y, z) = likelihood(decoder([z, y]))

    With L(x, y) = E_q(z|x,y)[log p(x|y, z) + log p(y) + log p(z) - log q(z|x, y)], the bound is

    L(x, y) <= log p(x, y) with a label,  sum over y of q(y|x) (L(x, y) - log q(y|x)) <= log p(x) without,

    and training adds alpha * log q(y|x) for each label. Data are dictionaries, `fit({"x": x, "label": label})`, whose
    labels are integers from 0 to K - 1, or -1 if the label is unknown. The networks take y as a one-hot vector. The
    metrics are those of `VariationalModel`; `accuracy`, the share of the labelled examples whose label is the most
    probable one under q(y|x), or NaN without any labelled example; and `kl_z`, the part of `kl` that is
    KL(q(z|x, y) || p(z)).

    Args:
        encoder: a Keras model from the list of x [B, ...] and y [B, K] to features [B, F].
        decoder: a Keras model from the list of z [B, L] and y [B, K] to the likelihood's parameters.
        classifier: a Keras model from x [B, ...] to logits [B, K].
        latent_dim: L, the dimension of z.
        num_classes: K, the number of classes, at least 2.
        posterior: see `tfvae.VAE`.
        prior: see `tfvae.ConditionalVAE`; here the condition is y.
        likelihood: see `tfvae.VAE`.
        objective: what is maximised; it may not take path gradients or need draws of z. None means `ELBO()`.
        alpha: the weight of log q(y|x), >= 0; for N examples the paper uses 0.1 N / (the number of labels).
        label_prior: p(y), K probabilities; None means that all are equal.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together, or an argument is out of its range.

    Reference: Kingma et al. 2014, Semi-supervised Learning with Deep Generative Models, equations 6, 7 and 9.
    """

    _PARTS = (*VAE._PARTS, "classifier")
    # Not `kl`, because it includes the divergence of q(y|x) from p(y).
    collapsing = ("kl_z",)
    # z is drawn for each label.
    _draws_z = False
    _given_shapes: ClassVar[dict[str, tuple[int, ...]]] = {"label": ()}

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        classifier: keras.Model,
        latent_dim: int,
        num_classes: int,
        posterior: Posterior | None = None,
        prior: Prior | Posterior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        alpha: float = 1.0,
        label_prior: Sequence[float] | None = None,
        **keras_kwargs: Any,
    ) -> None:
        # Set before the parts, because the constructor of the base class may call `build`.
        self.num_classes = checks.positive_integer("num_classes", num_classes, 2)
        self.classifier = parts.checked_network("classifier", classifier)
        self.alpha = checks.number("alpha", alpha, 0)
        self.label_prior = None if label_prior is None else tuple(float(probability) for probability in label_prior)
        self._log_label_prior = np.full(self.num_classes, -math.log(self.num_classes), np.float32)
        if self.label_prior is not None:
            probabilities = np.asarray(self.label_prior)
            if not (
                len(probabilities) == self.num_classes and min(probabilities) > 0 and abs(sum(probabilities) - 1) < 1e-5
            ):
                raise ValueError(
                    f"`label_prior` must hold {self.num_classes} positive probabilities that sum to 1. Received: "
                    f"label_prior={checks.shown(label_prior)}"
                )
            self._log_label_prior = np.log(probabilities).astype(np.float32)
        super().__init__(
            encoder, decoder, latent_dim, self.num_classes, posterior, prior, likelihood, objective, **keras_kwargs
        )
        parts.check_bound(self, posterior=self.posterior, likelihood=self.likelihood)
        parts.refuse_objectives_of_z(self)
        if any(getattr(layer, "has_moving_statistics", False) for layer in private_apis.layers_of(self.likelihood)):
            raise ValueError(
                '`likelihood` must not compute its scale from the batch, as Normal("optimal") does, because the batch '
                'holds every example once for each label; use Normal("learned"). Received: '
                f"{checks.shown(self.likelihood)}"
            )

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        return [_Accuracy(name="accuracy"), keras.metrics.Mean(name="kl_z")]

    @property
    def _rows_per_example(self) -> int:
        return self.num_classes

    def build(self, input_shape: Any) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...], or a dictionary of shapes with the key "x".
        """
        if self.event_shape is not None:
            return
        shape = input_shape["x"] if isinstance(input_shape, dict) else input_shape
        logits = parts.features_of("classifier", self.classifier, keras.KerasTensor((None, *shape[1:])))
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"`classifier` must give logits [B, {self.num_classes}], as num_classes={self.num_classes} says. "
                f"Received: a classifier that gives a tensor of shape {list(logits.shape)}"
            )
        super().build(input_shape)

    def unpack(self, data: Any) -> tuple[Any, Any]:
        """Returns x and the labels, by name, and the sample weights from one element of the data passed to `fit`.

        Args:
            data: a dictionary with the keys "x" and "label", alone or in a tuple as for `VAE`.

        Raises:
            ValueError: `data` has no such dictionary.
        """
        return unpack_named(data, ("x", "label"))

    def check_data(self, x: dict[str, np.ndarray], is_encoded_only: bool = False) -> None:
        """Builds the model if it is not built yet, and raises ValueError if x or the labels are not valid.

        Args:
            x: a dictionary of x [N, ...] and label [N].
            is_encoded_only: see `VAE`.
        """
        VAE.check_data(self, x["x"], is_encoded_only)
        self._check_labels(x["label"], -1)
        checks.check_same_length(**x)

    def elbo_terms(self, x: dict[str, tf.Tensor], sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`.

        For an example without a label, each term is its mean over q(y|x), and log_posterior and kl also include
        log q(y|x).
        """
        terms = self._terms_of_labels(x["x"], sampling)
        log_q = self._log_label_posterior(x["x"], sampling.training)
        label = tf.cast(x["label"], tf.int32)
        given = tf.one_hot(label, self.num_classes)
        known = label >= 0
        # `fit` checks only the first batch of a dataset. For a label that is out of range in a later one, `given` is
        # all zeros, and this division makes the loss NaN.
        at_label = given / tf.reduce_sum(given, axis=-1, keepdims=True)
        weights = tf.where(known[:, tf.newaxis], at_label, tf.exp(log_q))
        negative_entropy = tf.where(known, 0.0, tf.reduce_sum(weights * log_q, axis=-1))
        log_label = tf.reduce_sum(given * log_q, axis=-1)
        correct = known & (tf.argmax(log_q, axis=-1, output_type=tf.int32) == label)
        log_likelihood, log_prior, log_posterior, kl = (
            tf.reduce_sum(weights * term, axis=-1)
            for term in (terms.reconstruction_log_likelihood, terms.log_prior, terms.log_posterior, terms.kl)
        )
        return elbo.ElboTerms(
            log_likelihood,
            log_prior,
            log_posterior + negative_entropy,
            kl + negative_entropy,
            auxiliary=self.alpha * log_label,
            metrics={
                "accuracy": tf.cast(tf.stack([correct, known], axis=-1), tf.float32),
                "kl_z": kl + tf.reduce_sum(weights * self._log_label_prior, axis=-1),
            },
        )

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder, of the posterior and of the classifier."""
        return [*super().posterior_variables, *self.classifier.trainable_variables]

    def classify(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Computes q(y|x).

        Args:
            x: an array [N, ...], a dictionary with such an array as "x", or a dataset of either.
            batch_size: how many examples are computed at a time.

        Returns:
            The probabilities [N, K].
        """
        elements = x if isinstance(x, tf.data.Dataset) else [x]
        if elements is x:
            check_ends(x)
        batches = [self._run(self._classify, batch) for each in elements for batch in self._x_batches(each, batch_size)]
        return np.concatenate([batch["probabilities"] for batch in batches])

    def decode(self, z: Any, label: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|y, z).

        Args:
            z: an array [N, L].
            label: integers from 0 to K - 1 [N].
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        return super().decode(z, label, batch_size)

    def generate(self, label: Any, seed: int | None = None, batch_size: int = 256, sample: bool = False) -> np.ndarray:
        """Draws z ~ p(z) and computes the mean of p(x|y, z).

        Args:
            label: integers from 0 to K - 1 [N]: one example is generated for each.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.

        Returns:
            The generated examples [N, ...].
        """
        return super().generate(label, seed, batch_size, sample)

    def _x_batches(self, element: Any, batch_size: int) -> Iterator[tf.Tensor]:
        x = checks.to_numpy(unpack(element)[0] if isinstance(element, dict | tuple) else element)
        VAE.check_data(self, x, self.denoises)
        return batches(x, batch_size)

    def _classify(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.exp(self._log_label_posterior(x))}

    @property
    def _functions_of_x(self) -> dict[str, tuple[Callable[[tf.Tensor], dict[str, tf.Tensor]], str]]:
        return {"classify": (self._classify, "the probabilities of the labels under q(y|x)")}

    @property
    def _meaning_of_given(self) -> str:
        return (
            f" A label is an integer from 0 to {self.num_classes - 1}; beside x, -1 stands for the most probable one."
        )

    def _log_label_posterior(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The log-probabilities log q(y|x) [B, K]."""
        logits = self.classifier(self.likelihood.encoder_input(x), training=training)
        return numerics.log_softmax(tf.cast(logits, tf.float32))

    def _terms_of_labels(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """The terms of L(x, y) for every label y: the log-densities [S, B, K] and the KL divergence [B, K]."""
        rows = tf.shape(x)[0]
        # Networks take [B, ...]: the K labels are folded into B, and unfolded afterwards.
        every = {"x": tf.repeat(x, self.num_classes, axis=0), "condition": tf.tile(tf.eye(self.num_classes), [rows, 1])}
        if sampling.target is not None:
            sampling = sampling._replace(target=tf.repeat(sampling.target, self.num_classes, axis=0))
        terms = super().elbo_terms(every, sampling)
        log_likelihood, log_prior, log_posterior = (
            tf.reshape(term, [sampling.num_samples, rows, self.num_classes])
            for term in (terms.reconstruction_log_likelihood, terms.log_prior, terms.log_posterior)
        )
        kl = tf.reshape(terms.kl, [rows, self.num_classes])
        return elbo.ElboTerms(
            log_likelihood, log_prior + self._log_label_prior, log_posterior, kl - self._log_label_prior
        )

    def _draw_log_weights(self, x: dict[str, tf.Tensor], seed: tf.Tensor, num_samples: int) -> tf.Tensor:
        log_weights = self._terms_of_labels(x["x"], elbo.Sampling(num_samples, seed)).log_weights
        label = tf.cast(x["label"], tf.int32)
        counts = (label[:, tf.newaxis] < 0) | (tf.one_hot(label, self.num_classes) > 0)
        return tf.reduce_logsumexp(tf.where(counts, log_weights, -math.inf), axis=2)

    def _scored(
        self, x: dict[str, tf.Tensor], epsilon: tf.Tensor | None = None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        x = self._completed(x)
        terms, parameters = super()._scored(x, epsilon)
        log_label_prior = tf.reduce_sum(x["condition"] * self._log_label_prior, axis=-1)
        terms |= {"elbo": terms["elbo"] + log_label_prior, "kl": terms["kl"] - log_label_prior}
        return terms, parameters

    def _completed(self, x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Data with the condition, which is the label one-hot, or the most probable label if it is unknown."""
        if isinstance(x, dict) and "condition" in x:
            return x
        x, _ = unpack_named(x, ("x", "label"))
        label = tf.cast(x["label"], tf.int32)
        likely = tf.argmax(self._log_label_posterior(x["x"]), axis=-1, output_type=tf.int32)
        return {"x": x["x"], "condition": tf.one_hot(tf.where(label >= 0, label, likely), self.num_classes)}

    def _split(self, x: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        return super()._split(self._completed(x))

    def _together(self, x: tf.Tensor, *given: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"x": x, "label": given[0]}

    def _parameters_of_x(self, z: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        return super()._parameters_of_x(z, self._one_hot(label))

    def _from_prior(self, epsilon: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        return super()._from_prior(epsilon, self._one_hot(label))

    def _draw_prior(self, label: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return super()._draw_prior(self._one_hot(label), seed)

    def _one_hot(self, label: tf.Tensor) -> tf.Tensor:
        return tf.one_hot(tf.cast(label, tf.int32), self.num_classes)

    def _expected_labels(self, lowest: int) -> str:
        return f"integers from 0 to {self.num_classes - 1}{', and -1 for none' if lowest < 0 else ''}"

    @property
    def _description(self) -> dict[str, Any]:
        return {**super()._description, "num_classes": self.num_classes}

    def _example_conditions(self, rows: int) -> tuple[np.ndarray, ...]:
        return (np.arange(rows) % self.num_classes,)

    def _given_to_decoder(self, data: Arrays) -> Arrays:
        # These signatures have no x from which to infer an unknown label, so class 0 stands in for it.
        return {"label": np.maximum(data["label"], 0)}

    def _check_condition(self, condition: Any) -> np.ndarray:
        return self._check_labels(checks.to_numpy(condition, "label"), 0)

    def _check_labels(self, label: np.ndarray, lowest: int) -> np.ndarray:
        """Returns the labels [N], after checking that they are integers from `lowest` to K - 1."""
        checks.check_shape(label, (), "label")
        checks.check_integers(label, lowest, self.num_classes, f"hold {self._expected_labels(lowest)}", "label")
        return label

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        del config["condition_dim"]
        own = {"num_classes": self.num_classes, "alpha": self.alpha, "label_prior": self.label_prior}
        return {**config, **own}


class _Accuracy(keras.metrics.Metric):
    """The share of the labelled examples that are classified correctly.

    Args:
        name: the name of the metric.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.counts = self.add_variable(shape=(2,), initializer="zeros", name="counts")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds values [B, 2]: whether an example is classified correctly, and whether it is labelled, as 0 or 1."""
        if sample_weight is not None:
            values *= tf.cast(sample_weight, tf.float32)[:, tf.newaxis]
        self.counts.assign_add(tf.reduce_sum(values, axis=0))

    def result(self) -> tf.Tensor:
        """The share."""
        return self.counts[0] / self.counts[1]
