"""A fitted detector as a Keras model, in the form in which it is exported: raw rows in, decisions with reasons out."""

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae.exportable import Arrays, Exportable, Signature, as_markdown
from tfvae.models import rows as rows_module
from tfvae.models.vae import VAE
from tfvae.numerics import logsumexp
from tfvae.sklearn.estimator import FARTHEST

if TYPE_CHECKING:
    from tfvae.sklearn.outlier_detector import VAEOutlierDetector

# Enough to reveal a wrong weight or op, and few enough to take no time.
_DRAWN_ROWS = 64
# The share of the values of drawn rows of a table that are missing.
_MISSING = 0.1
# The largest rounding of raw numbers in float32, relative to their standard deviation.
_LARGEST_STEP = 1e-3
_MEANINGS = {
    "score": "how unusual the row is, in nats: 0 for an average row of the training data, and high for anomalies",
    "is_anomaly": "1 if the score is above the threshold, otherwise 0",
    "contributions": "what each of `columns` adds to the score, in nats; beside them, kl is the rest of the score",
    "kl": "what the latent variables add to the score, in nats",
}


class DetectorModel(Exportable, keras.Model):
    """A fitted `VAEOutlierDetector` as a Keras model: `VAEOutlierDetector.to_model` makes it.

    It takes raw rows x [B, D], and gives the outputs of `detect`. Keras cannot save it; the detector itself is saved by
    joblib, and this model by `tfvae.export`.

    Args:
        detector: the fitted detector. What becomes of it later does not change the model.
    """

    # Rows are raw already.
    takes_units = False
    timed_signature = "detect"
    export_tags = ("variational-autoencoder", "anomaly-detection")
    export_limits = (
        "An anomaly is a row unlike those of the training, harmful or not; what is like them is not found. The rate of "
        "false alarms holds for data like those of the calibration."
    )

    def __init__(self, detector: "VAEOutlierDetector") -> None:
        super().__init__(name="detector")
        self.detector = copy.copy(detector)
        self.vaes = detector.vaes_
        self.decision = detector.decision
        self.built = True

    def detect(self, X: Any) -> Arrays:  # noqa: N803
        """Decides which rows are anomalies, and says how much each column adds to the score.

        Args:
            X: rows as for the detector.

        Returns:
            `score` [N], -`score_samples` minus what is typical of it, in nats; `is_anomaly`, bool [N], as `predict`
            decides; and `contributions` [N, D] and `kl` [N], the columns of `VAEOutlierDetector.contributions`, which
            sum to the score. Of a table, they are of the columns of x, as those of `tfvae.VAE.detect`;
            `detector.table_.by_column` sums them over those of a column of the table.
        """
        return self._detected(self.detector._rows(X))

    def call(self, x: Any) -> dict[str, tf.Tensor]:
        """The outputs of `detect`, float32, for rows x [B, D]: of a table, its numbers and codes."""
        rows, is_observed = self._rows(tf.cast(x, tf.float32))
        columns, kl = tf.zeros_like(rows), tf.zeros_like(rows[:, 0])
        for number, (vae, weight) in enumerate(zip(self.vaes, self.detector.weights_, strict=True)):
            log_likelihood, rest = self._terms(vae, tf.constant(self.detector._noise[number]), rows)
            if is_observed is not None:
                expected = tf.constant(self.detector._expected[number], tf.float32)
                log_likelihood = tf.where(is_observed, log_likelihood, expected)
            columns -= np.float32(weight) * log_likelihood
            kl += np.float32(weight) * rest
        if self.detector.table_ is None:
            return self.decision.outputs(columns, kl)
        owners = self.detector._features.owners.astype(np.float32)
        of_columns = tf.matmul(tf.cast(is_observed, tf.float32), owners) > 0
        return self.decision.outputs(tf.matmul(columns, owners), kl, of_columns)

    def get_config(self) -> NoReturn:
        """Raises NotImplementedError: Keras cannot save the model."""
        raise NotImplementedError(
            "A DetectorModel is not saved by Keras: save the detector by joblib.dump, or export the model by "
            "tfvae.export.saved_model or tfvae.export.tflite. Received: a call of get_config(), as of save()"
        )

    def check_exportable(self) -> None:
        """Raises ValueError if float32, in which an export takes rows, has too few digits: see `Exportable`."""
        if self.detector.table_ is not None:
            rows_module.check_float32(self.detector.table_)
            return
        mean, scale = self.detector.scaler_.mean_, self.detector.scaler_.scale_
        steps = np.spacing(np.abs(mean).astype(np.float32)) / scale
        if steps.max() > _LARGEST_STEP:
            column = int(steps.argmax())
            raise ValueError(
                f'Column "{self._names[column]}" must have numbers that keep their digits in float32, in which an '
                f"export takes them: subtract a constant before. Received: numbers about {mean[column]:g}, which are "
                f"rounded to {steps[column]:.1e} of their standard deviation"
            )

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """`detect`, and `serving_default`, which is the same: see `Exportable`.

        Args:
            x: has no effect.
        """
        table = self.detector.table_
        width = self.detector.n_features_in_ if table is None else len(table.parts)
        sizes = np.abs(self.decision.expected_contributions)
        # The models of a detector have a KL divergence.
        of_kl = abs(cast("float", self.decision.expected_kl))
        of_score = sizes.size + float(sizes.sum()) + of_kl
        example = self._example()
        signature = Signature(
            self.call,
            (tf.TensorSpec([None, width], tf.float32, "x"),),
            self._expected,
            {"score": of_score, "contributions": 1 + float(sizes.max()), "kl": 1 + of_kl},
            request=example[0].tolist(),
            meaning="whether a row is an anomaly, and how much each column adds to its score",
            jumps={"is_anomaly": ("score", float(np.float32(self.decision.threshold.value)))},
            columns=None if table is None else rows_module.named_columns(table),
        )
        return {"serving_default": signature, "detect": signature}

    def export_weights(self) -> list[Any]:
        """The weights of the encoders, decoders, posteriors and likelihoods."""
        return [weight for vae in self.vaes for weight in vae.weights]

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared or calibrated: see `Exportable`.

        Args:
            x: rows as for the detector; None draws them by one of the VAEs.
            rows: how many rows to take or, without x, to draw; None takes all, or draws 64.
        """
        detector, table = self.detector, self.detector.table_
        if x is None:
            drawn = self.vaes[0].generate(rows or _DRAWN_ROWS, seed=0, sample=True).astype(np.float64)
            drawn = detector.scaler_.inverse_transform(drawn)
            if table is None:
                return drawn.astype(np.float32)
            made = rows_module.of_a_row(table, detector._features.x(drawn), is_drawn=True)
            owners = table.owners()
            is_missing = np.random.default_rng(0).uniform(size=made.shape) < _MISSING
            # All that a column of the table has in x is missing together.
            made[is_missing[:, [owners.index(owner) for owner in owners]]] = np.nan
            return table.to_codes(made).astype(np.float32)
        if table is not None:
            return table.checked_codes(table.codes(x)[:rows])
        return detector._values(x)[:rows].astype(np.float32)

    def export_example(self, signatures: Mapping[str, Signature]) -> Arrays:
        """An average row: see `Exportable`.

        Args:
            signatures: has no effect.
        """
        return {"x": self._example()}

    def export_meanings(self) -> Mapping[str, str]:
        """What the outputs mean: see `Exportable`."""
        return _MEANINGS

    def export_description(self) -> dict[str, Any]:
        """What a caller must know: see `Exportable`. Of a table its columns, and what the codes in x stand for."""
        table = self.detector.table_
        threshold = {"threshold": self.decision.threshold.to_dict()}
        if table is None:
            return {"missing_values": False, "columns": self._names, **threshold}
        return {
            "missing_values": True,
            "columns": list(table.names),
            "expected_range": table.ranges,
            "codes": {name: list(labels) for name, labels in table.labels.items()},
            "table": table.config(),
            **threshold,
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: the result of `export_signatures`.
        """
        own = ("detector.md", {"names": ", ".join(map(as_markdown, self.export_description()["columns"]))})
        return [("model.md", {}), own] + ([] if self.detector.table_ is None else [("columns.md", {})])

    @property
    def _names(self) -> list[str]:
        """The names of the columns of an array, or of a data frame of numbers."""
        names = getattr(self.detector, "feature_names_in_", None)
        return [f"x{index}" for index in range(self.detector.n_features_in_)] if names is None else list(names)

    def _example(self) -> np.ndarray:
        table = self.detector.table_
        return self.detector.scaler_.mean_[np.newaxis].astype(np.float32) if table is None else table.typical

    def _expected(self, x: np.ndarray) -> Arrays:
        """The detector's own answers to what an export takes."""
        detector = self.detector
        values = x.astype(np.float64)
        rows = detector._standardised(values if detector.table_ is None else detector._features.of_codes(values))
        outputs = self._detected(rows)
        return {**outputs, "is_anomaly": outputs["is_anomaly"].astype(np.float32)}

    def _detected(self, rows: np.ndarray) -> Arrays:
        """The outputs of `detect` for standardised rows."""
        parts = self.detector._contributions(rows)
        score = parts.sum(axis=1)
        return {
            "score": score,
            "is_anomaly": score > self.decision.threshold.value,
            "contributions": parts[:, :-1],
            "kl": parts[:, -1],
        }

    def _rows(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The standardised rows of raw ones, and of a table what is observed."""
        scaler, table = self.detector.scaler_, self.detector.table_
        is_observed = None
        if table is not None:
            x, is_observed = self.detector._features.in_graph(table.forward(x))
        rows = (x - scaler.mean_.astype(np.float32)) / scaler.scale_.astype(np.float32)
        rows = tf.clip_by_value(rows, -FARTHEST, FARTHEST)
        return (rows if is_observed is None else tf.where(is_observed, rows, 0.0)), is_observed

    def _terms(self, vae: VAE, noise: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The mean over draws of z of log p(x_j|z) [B, F] for each feature, and the rest of the negative score [B]."""
        encoded = vae.posterior(vae.encoder(rows, training=False))
        loc, scale = encoded["loc"], encoded["scale"]
        # Draws are stacked along the batch and split again, because LiteRT gets reshapes of a batch of any size wrong.
        epsilon = tf.unstack(noise)
        draws = [loc + scale * each for each in epsilon]
        parameters = vae.decoder(tf.concat(draws, axis=0), training=False)
        of_draws = vae.likelihood.element_log_prob(tf.concat([rows] * len(draws), axis=0), parameters)
        parts = tf.split(of_draws, len(draws), axis=0)
        log_likelihood = tf.add_n(parts) / len(parts)
        if self.detector.criterion == "reconstruction_log_likelihood":
            return log_likelihood, tf.zeros_like(loc[:, 0])
        if self.detector.criterion == "elbo":
            return log_likelihood, vae.posterior.distribution(encoded).kl_divergence(vae.prior.distribution())
        # Of the densities of N(0, I) and of q, what does not cancel.
        ratios = [
            0.5 * tf.reduce_sum(tf.square(each) - tf.square(z), axis=1) for each, z in zip(epsilon, draws, strict=True)
        ]
        weights = [tf.reduce_sum(part, axis=1) + ratio for part, ratio in zip(parts, ratios, strict=True)]
        log_mean = logsumexp(tf.stack(weights, axis=1)) - math.log(len(weights))
        log_density = log_mean + tf.reduce_sum(tf.math.log(scale), axis=1)
        return log_likelihood, tf.reduce_sum(log_likelihood, axis=1) - log_density
