"""The VAEs that an estimator consists of: their design, their training, and what they say about rows.

A fitted VAE is kept as its weights. All VAEs of one design are trained and evaluated by the same Keras model, whose
graphs are traced only once in a process: a cross-validation fits many, and tracing takes longer than a short training.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import likelihoods, networks, objectives
from tfvae.callbacks import PosteriorCollapseWarning
from tfvae.likelihoods.location_scale import Scale
from tfvae.models.vae import VAE

_LEARNING_RATE = 3e-3
BATCH_SIZE = 128
# The end of an epoch of Keras costs as much as many steps of a small model, so small tables are repeated to this many.
_STEPS_PER_EPOCH = 50
# Epochs without a better bound of the held-out rows, after which training stops.
_PATIENCE = 10
# Rows are evaluated in batches of exactly this size, because the last bits of float32 depend on the size of a batch,
# and the score of a row must not depend on the rows beside it.
_ROWS = 256
# How many graphs of designs are kept in memory.
_DESIGNS = 32
# Tails that are heavier than those of the normal distribution: an anomaly in the training data changes the model less.
_DF = 3.0


class Design(NamedTuple):
    """The design of a VAE of a table.

    Attributes:
        columns: D, the number of columns.
        latent_dim: L.
        hidden: the widths of the layers of the encoder, which the decoder has in reverse.
        scale: the scale of the likelihood, as `tfvae.likelihoods.StudentT` takes it.
        is_normal: whether the likelihood is `Normal`; otherwise it is `StudentT`.
        allows_missing: whether x may hold NaN.
        beta: the weight of the KL divergence in training.
        num_samples: the number of draws of z in training, of which more than 1 make the bound that of the IWAE.
    """

    columns: int
    latent_dim: int
    hidden: tuple[int, ...]
    scale: Scale = "per_dimension"
    is_normal: bool = False
    allows_missing: bool = False
    beta: float = 1.0
    num_samples: int = 1

    def build(self) -> VAE:
        """A new, compiled VAE of this design."""
        likelihood: likelihoods.Likelihood = (
            likelihoods.Normal(self.scale) if self.is_normal else likelihoods.StudentT(_DF, self.scale)
        )
        shape = (self.columns,)
        encoder = networks.dense_encoder(shape, self.hidden, missing_mask=self.allows_missing)
        if self.allows_missing:
            likelihood = likelihoods.Missing(likelihood, fill=False)
        parameters = likelihood.parameter_shape(shape)
        decoder = networks.dense_decoder(self.latent_dim, parameters, self.hidden[::-1])
        objective = objectives.ELBO(self.beta) if self.num_samples == 1 else objectives.IWAE(self.num_samples)
        vae = VAE(encoder, decoder, self.latent_dim, likelihood=likelihood, objective=objective)
        vae.compile(keras.optimizers.Adam(_LEARNING_RATE))
        # Columns may well be independent, which a user of an estimator need not hear of. Through __dict__, because
        # Keras's __setattr__ would look for layers.
        vae.__dict__["warnings"] = tuple(each for each in vae.warnings if each is not PosteriorCollapseWarning)
        return vae


class Terms(NamedTuple):
    """What a VAE says about rows, in nats; means over the draws of z, but for the last.

    Attributes:
        log_likelihood: log p(x_j|z) of each column [N, D].
        kl: KL(q(z|x) || p(z)) [N].
        log_density: the estimate of log p(x) by importance sampling [N].
    """

    log_likelihood: np.ndarray
    kl: np.ndarray
    log_density: np.ndarray

    @property
    def elbo(self) -> np.ndarray:
        """The bound on log p(x) [N]."""
        return self.log_likelihood.sum(axis=1) - self.kl

    def with_expected(self, is_missing: np.ndarray, expected: np.ndarray) -> "Terms":
        """The terms of rows in which missing values are as likely as observed ones are on average.

        Args:
            is_missing: which values are missing, bool [N, D].
            expected: the mean of log p(x_j|z) of the observed values of each column [D].
        """
        log_likelihood = np.where(is_missing, expected, self.log_likelihood)
        more = (log_likelihood - self.log_likelihood).sum(axis=1)
        return Terms(log_likelihood, self.kl, self.log_density + more)


class Member(NamedTuple):
    """One fitted VAE.

    Attributes:
        design: its design.
        weights: all its weights, as `keras.Model.get_weights` returns them.
        history: the bound of the training rows and of the held-out rows after each epoch of Keras.
    """

    design: Design
    weights: list[np.ndarray]
    history: dict[str, list[float]]

    def vae(self) -> VAE:
        """A new `tfvae.VAE` with these weights."""
        vae = self.design.build()
        vae.set_weights(self.weights)
        return vae

    def means(self, x: np.ndarray) -> np.ndarray:
        """The means of q(z|x) [N, L], float64, of standardised rows [N, D]."""
        return _workshop(self.design).means(self.weights, x)

    def terms(self, x: np.ndarray, noise: np.ndarray) -> Terms:
        """Evaluates standardised rows [N, D] with the same noise [S, L] from N(0, I) for each row."""
        return _workshop(self.design).terms(self.weights, x, noise)

    def run(self, function: Callable[[VAE], Any]) -> Any:
        """The result of a function of the VAE, which must not keep it."""
        workshop = _workshop(self.design)
        with workshop.lock:
            workshop.vae.set_weights(self.weights)
            return function(workshop.vae)


def train(
    design: Design, x: np.ndarray, held_out: np.ndarray | None, steps: int, seed: int, verbose: int = 0
) -> Member:
    """Trains a VAE on standardised rows.

    Args:
        design: its design.
        x: the rows to train on [N, D], float32.
        held_out: the rows whose bound says when to stop and which weights to keep; None trains to the end.
        steps: the most training steps.
        seed: the seed of the initial weights, of the order of the rows and of the noise.
        verbose: as for `keras.Model.fit`.
    """
    return _workshop(design).train(x, held_out, steps, seed, verbose)


class _Workshop:
    """The Keras model that trains and evaluates all VAEs of one design, one at a time.

    Args:
        design: the design.
    """

    def __init__(self, design: Design) -> None:
        self.lock = threading.RLock()
        self._design = design
        self.vae = design.build()
        self.vae.build_optimizers()
        self._start = [variable.numpy() for variable in (*self.vae.weights, *self.vae.optimizer.variables)]
        signature = tf.TensorSpec([_ROWS, design.columns], tf.float32)
        noise = tf.TensorSpec([None, design.latent_dim], tf.float32)
        self._means = tf.function(lambda x: self.vae.posterior.center(self.vae._encode(x)), [signature])
        self._terms = tf.function(self._terms_of_batch, [signature, noise], autograph=False)

    def train(self, x: np.ndarray, held_out: np.ndarray | None, steps: int, seed: int, verbose: int) -> Member:
        """Trains a VAE: see the function `train`."""
        rng = np.random.default_rng(seed)
        enough = _STEPS_PER_EPOCH * BATCH_SIZE
        if steps < _STEPS_PER_EPOCH:
            enough = steps * BATCH_SIZE
        if len(x) < enough:
            x = np.concatenate([x] * (enough // len(x)) + [x[rng.permutation(len(x))[: enough % len(x)]]])
        epochs = max(1, round(steps * BATCH_SIZE / len(x)))
        callbacks = []
        if held_out is not None:
            stop = keras.callbacks.EarlyStopping("val_elbo", mode="max", patience=_PATIENCE, restore_best_weights=True)
            callbacks.append(stop)
        with self.lock:
            self._begin(rng)
            history = self.vae.fit(
                x,
                batch_size=BATCH_SIZE,
                epochs=epochs,
                validation_data=None if held_out is None else (held_out,),
                validation_batch_size=BATCH_SIZE,
                callbacks=callbacks,
                verbose=verbose,
            ).history
            return Member(
                self._design,
                self.vae.get_weights(),
                {name: history[name] for name in ("elbo", "val_elbo") if name in history},
            )

    def _begin(self, rng: np.random.Generator) -> None:
        """Makes the VAE as it is before any training, with initial weights from the generator."""
        for variable, value in zip((*self.vae.weights, *self.vae.optimizer.variables), self._start, strict=True):
            variable.assign(value)
        for variable in self.vae.trainable_variables:
            if len(variable.shape) == 2:
                # Glorot & Bengio 2010, as for Keras's layers, whose own initial weights have a seed of the process.
                limit = np.sqrt(6 / sum(variable.shape))
                variable.assign(rng.uniform(-limit, limit, variable.shape))
        self.vae.begin_anew(int(rng.integers(2**31)))

    def means(self, weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
        """See `Member.means`."""
        with self.lock:
            self.vae.set_weights(weights)
            return _in_batches(lambda batch: (self._means(batch),), x)[0]

    def terms(self, weights: list[np.ndarray], x: np.ndarray, noise: np.ndarray) -> Terms:
        """See `Member.terms`."""
        noise = tf.constant(noise, tf.float32)
        with self.lock:
            self.vae.set_weights(weights)
            return Terms(*_in_batches(lambda batch: self._terms(batch, noise), x))

    def _terms_of_batch(self, x: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, ...]:
        vae = self.vae
        encoded = vae._encode(x)
        posterior, prior = vae.posterior.distribution(encoded), vae.prior.distribution()
        loc, scale = encoded["loc"], encoded["scale"]
        z = loc + scale * noise[:, tf.newaxis, :]
        log_likelihood = vae.likelihood.element_log_prob(x, vae.likelihood_parameters(z))
        log_weights = tf.reduce_sum(log_likelihood, axis=-1) + prior.log_prob(z) - posterior.log_prob(z)
        log_density = tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(tf.cast(tf.shape(noise)[0], tf.float32))
        return tf.reduce_mean(log_likelihood, axis=0), posterior.kl_divergence(prior), log_density


@functools.lru_cache(_DESIGNS)
def _workshop(design: Design) -> _Workshop:
    return _Workshop(design)


def _in_batches(function: Callable[[tf.Tensor], tuple[tf.Tensor, ...]], x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a function for batches of exactly `_ROWS` rows, one after the other, float64."""
    outputs = []
    for start in range(0, len(x), _ROWS):
        batch = x[start : start + _ROWS]
        padded = np.concatenate([batch, np.zeros((_ROWS - len(batch), *x.shape[1:]), x.dtype)])
        outputs.append([output.numpy()[: len(batch)] for output in function(tf.constant(padded, tf.float32))])
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*outputs, strict=True)]
