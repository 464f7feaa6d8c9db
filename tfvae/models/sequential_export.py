"""How models with latent variables at each step are exported: their signatures take and give whole sequences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae.exportable import Arrays, Signature
from tfvae.models import over_time
from tfvae.models.step_detection import StepDetection

# The steps of the sequences with which an export is compared where any number may be given and no data are.
_EXAMPLE_STEPS = 16


class SequentialExport(StepDetection):
    """The signatures of a `tfvae.SequentialVAE`: see `tfvae.export.Endpoints`."""

    # tf2onnx cannot convert the loop by which `generate` draws one step after the other.
    export_formats = ("SavedModel", "TFLite")
    export_tags = ("variational-autoencoder", "time-series")

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: has no effect.
        """
        number, channels = self.event_shape[0], self.event_shape[1:]
        of_x, z, epsilon, uniform = (
            tf.TensorSpec([None, number, *shape], tf.float32, name)
            for name, shape in (
                ("x", channels),
                ("z", (self.latent_dim,)),
                ("epsilon", (self.latent_dim,)),
                ("uniform", self.likelihood.noise_shape(channels)),
            )
        )
        steps = number or _EXAMPLE_STEPS
        elements, terms_of_kl = int(np.prod(channels)), self.latent_dim
        terms = {"step_elbo": elements + terms_of_kl, "step_log_likelihood": elements, "step_kl": terms_of_kl}
        terms |= {"elbo": steps * elements, "reconstruction_log_likelihood": steps * elements}
        terms |= {"kl": steps * terms_of_kl}
        row = np.zeros([number or 1, *channels]).tolist()
        noise = np.zeros([number or 1, self.latent_dim]).tolist()
        signatures = {
            "encode": Signature(self._encode, (of_x,), self.encode, meaning="the parameters of q(z_t|...)"),
            "decode": Signature(
                lambda z: {"mean": self._decode(z)},
                (z,),
                lambda z: {"mean": self.decode(z)},
                meaning="the mean of p(x_t|z_t)",
            ),
            "reconstruct": Signature(
                lambda x: {"mean": self.call(x)},
                (of_x,),
                lambda x: {"mean": self.reconstruct(x)},
                meaning="the mean of p(x_t|z_t) at the mean of each q(z_t|...)",
            ),
            "generate": Signature(
                lambda epsilon: {"mean": self._generated_from(epsilon)[0]},
                (epsilon,),
                meaning="the mean of p(x_t|z_t) along z drawn from the model by noise epsilon from N(0, I)",
            ),
            "score": Signature(
                self._score,
                (of_x, epsilon),
                lambda x, epsilon: self.score(x, epsilon),
                terms,
                request={"x": row, "epsilon": noise},
                meaning="the ELBO and its terms in nats, of the sequence and of each step, at z drawn from q(z|x) by "
                "noise epsilon from N(0, I)",
            ),
            "serving_default": Signature(
                self._reconstruct_and_score,
                (of_x,),
                lambda x: {"mean": self.reconstruct(x), **self.score(x)},
                terms,
                request=row,
                meaning="the outputs of reconstruct, and those of score at the mean of each q(z_t|...)",
            ),
        }
        if self.likelihood.samples_from_noise:
            signatures["generate_sample"] = Signature(
                lambda epsilon, uniform: {"sample": self._generated_from(epsilon, uniform)[1]},
                (epsilon, uniform),
                meaning="a draw of x: z from the model, then each x_t from p(x_t|z_t), by noise epsilon from N(0, I) "
                "and uniform noise",
                draws=True,
            )
        if self.decision is not None:
            signatures |= self._signature_of_detection(self.decision, (of_x,), row)
        return signatures

    def _generated_from(
        self, epsilon: tf.Tensor, uniform: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The means of p(x_t|z_t), and with uniform noise the draws of x that it makes, for noise epsilon [B, T, L].

        A memory reads the draws where there are such, and otherwise the means.
        """

        def draw(parameters: tf.Tensor, *uniform: tf.Tensor) -> tf.Tensor:
            return self.likelihood.sample_from(parameters, *uniform) if uniform else self.likelihood.mean(parameters)

        rows = tf.shape(epsilon)[0]
        first = self.prior.sample_from(epsilon[:, 0])
        elements = [] if uniform is None else [uniform]
        _, parameters, x = self.continued(self.initial(rows), epsilon, draw, elements, first)
        if x is None and uniform is not None:
            x = over_time.unfolded(draw(over_time.folded(parameters), over_time.folded(uniform)), epsilon)
        return self.likelihood.mean(parameters), x

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: see `AutoencoderExport.export_examples`.
        """
        epsilon = np.random.default_rng(1).standard_normal([*x.shape[:2], self.latent_dim], np.float32)
        of_x, of_epsilon = {"x": x}, {"epsilon": epsilon}
        examples = {
            **dict.fromkeys(("encode", "reconstruct", "serving_default"), of_x),
            "decode": {"z": epsilon},
            "generate": of_epsilon,
            "score": {**of_x, **of_epsilon},
            **({} if self.decision is None else {"detect": of_x}),
        }
        if self.likelihood.samples_from_noise:
            shape = [*x.shape[:2], *self.likelihood.noise_shape(self.event_shape[1:])]
            signature = self.export_signatures()["generate_sample"]
            uniform = self._steady_noise(signature, of_epsilon, shape)
            examples["generate_sample"] = {**of_epsilon, "uniform": uniform}
        return examples

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        steps = {"step_elbo": "elbo", "step_log_likelihood": "reconstruction_log_likelihood", "step_kl": "kl"}
        meanings = super().export_meanings()
        return {
            **meanings,
            **{name: f"the part of {whole} that a step adds; 0 for padding" for name, whole in steps.items()},
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: see `AutoencoderExport.export_readme`.
        """
        (template, fields), *others = super().export_readme(signatures)
        shape = ", ".join("T" if size is None else str(size) for size in self.event_shape)
        if self.event_shape[0] is None:
            fields = {**fields, "shorter": self._of_any_length}
        return [(template, {**fields, "event_shape": f"[{shape}]"}), *others]

    @property
    def _of_any_length(self) -> str:
        """A sentence on T, for the README."""
        padding = "; NaN after the end of a shorter one is padding" if self.likelihood.allows_missing else ""
        return f" T is the number of steps, any from 1 on and the same for all sequences of a request{padding}."

    def _drawn_data(self, rows: int) -> np.ndarray:
        x = self.generate(rows, self.event_shape[0] or _EXAMPLE_STEPS, seed=0, sample=True)
        if not np.isfinite(x).all():
            raise ValueError("`model` must generate finite data. Received: a model that generates NaN or infinity")
        if self.likelihood.allows_missing:
            x = np.where(self._missing_in_draws(x.shape), np.float32(np.nan), x)
        return x
