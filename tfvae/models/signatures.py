"""How autoencoders are exported: they implement the contract of `tfvae.exportable`."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from tfvae import private_apis
from tfvae.exportable import Arrays, Exportable, Signature
from tfvae.models import half_precision

# Enough to reveal a wrong weight or op, and few enough to take no time.
_DRAWN_ROWS = 64
# Where an export is compared, noise that moves by the first must not change a draw by more than the second, relative to
# the largest draw; otherwise it is drawn again, at most so many times.
_NOISE_STEP, _LARGEST_CHANGE, _MOST_REDRAWS = np.float32(1e-4), 1e-3, 20
# The inputs and outputs of windows [T, C] that have an axis of steps.
_OF_STEPS = ("x", "mean", "sample", "contributions")
_SHORTER = " x may have any number of steps T up to {steps}. Those after its end are missing."
# The terms of the bound in words.
_TERMS = {"reconstruction_log_likelihood": "log p(x|z)", "kl": "KL(q(z|x) || p(z))"}
# What the inputs of `_given_shapes` mean.
_GIVEN = {
    "condition": "what x depends on besides z",
    "label": "the number of the class; where x is given, -1 stands for the most probable one",
}


class AutoencoderExport(Exportable, keras.Model):
    """The signatures of an autoencoder: see `tfvae.export.Endpoints`."""

    timed_signature = "reconstruct"
    export_tags: tuple[str, ...] = ("variational-autoencoder",)
    export_axes: ClassVar[Mapping[int, tuple[str, ...]]] = {**Exportable.export_axes, 2: ("step", "channel")}
    undefined: dict[str, str]
    has_bound: bool
    # What the signatures take in addition to x, z or epsilon, with the shape for one example.
    _given_shapes: ClassVar[dict[str, tuple[int, ...]]] = {}
    # A sentence on these inputs, for the README of an export.
    _meaning_of_given = ""
    # A sentence on what x is made of, for the README.
    _meaning_of_x = ""
    # The reason why models of this class cannot be exported; None if they can.
    _no_export: ClassVar[str | None] = None

    @property
    def export_limits(self) -> str:
        """What the model cannot do, for model cards: see `Exportable`."""
        limits = "x unlike the data of the training is reconstructed as if it were like them: only its score tells."
        return f"{limits} The ELBO is a lower bound on log p(x)." if self.has_bound else limits

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        if self._no_export:
            raise NotImplementedError(f"A {type(self).__name__} has no export: {self._no_export}")
        if self.event_shape is None:
            raise ValueError("`model` must be built before it is exported: fit it, or call it. Received: a new model")

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: has no effect.
        """
        spec_of_x = _spec("x", self.event_shape)
        z, epsilon = _spec("z", (self._z_dim,)), _spec("epsilon", (self._epsilon_dim,))
        given = tuple(_spec(name, shape) for name, shape in self._given_shapes.items())
        elements = math.prod(self.event_shape)
        terms = self._defined({"elbo": elements, "reconstruction_log_likelihood": elements, "kl": self._epsilon_dim})
        zeros = {spec.name: np.zeros(spec.shape[1:]).tolist() for spec in (spec_of_x, epsilon, *given)}
        row = {name: value for name, value in zeros.items() if name != "epsilon"}
        signatures = {
            "encode": Signature(
                lambda *data: self._encode(self._together(*data)),
                (spec_of_x, *given),
                lambda **data: self.encode(_data(data)),
                meaning="the parameters of q(z|x)",
            ),
            "decode": Signature(
                lambda z, *given: {"mean": self._decode(z, *given)},
                (z, *given),
                lambda z, **given: {"mean": self.decode(z, *given.values())},
                meaning="the mean of p(x|z)",
            ),
            "reconstruct": Signature(
                lambda *data: {"mean": self.call(self._together(*data))},
                (spec_of_x, *given),
                lambda **data: {"mean": self.reconstruct(_data(data))},
                meaning="the mean of p(x|z) at the mean of q(z|x)",
            ),
            "generate": Signature(
                lambda epsilon, *given: {"mean": self._decode(self._from_prior(epsilon, *given), *given)},
                (epsilon, *given),
                lambda epsilon, **given: {"mean": self.decode(self._prior_draws(epsilon, given), *given.values())},
                meaning="the mean of p(x|z) at z drawn from the prior by noise epsilon from N(0, I)",
            ),
            # What it computes: `_scored`, in vae.py for a `VAE`.
            "score": Signature(
                lambda x, epsilon, *given: self._score(self._together(x, *given), epsilon),
                (spec_of_x, epsilon, *given),
                lambda epsilon, **data: self.score(_data(data), epsilon),
                terms,
                request=zeros,
                meaning=f"{self._scores_in_words} in nats, at z drawn from q(z|x) by noise epsilon from N(0, I)",
            ),
            "serving_default": Signature(
                lambda *data: self._reconstruct_and_score(self._together(*data)),
                (spec_of_x, *given),
                lambda **data: {"mean": self.reconstruct(_data(data)), **self.score(_data(data))},
                terms,
                request=row if given else row["x"],
                meaning="the outputs of reconstruct, and those of score at the mean of q(z|x)",
            ),
        }
        if self.likelihood.samples_from_noise:
            signatures |= self._signatures_of_draws(spec_of_x, epsilon, given)
        if self.decision is not None:
            signatures |= self._signature_of_detection(self.decision, (spec_of_x, *given), row if given else row["x"])
            if self._detects_steps:
                signatures |= self._signature_of_steps(self.decision, signatures["detect"])
        signatures |= {
            name: Signature(function, (spec_of_x,), meaning=meaning)
            for name, (function, meaning) in self._functions_of_x.items()
        }
        if not self._takes_shorter:
            return signatures
        return {
            name: dataclasses.replace(each, of_steps=_OF_STEPS) if spec_of_x in each.inputs else each
            for name, each in signatures.items()
        }

    def _signatures_of_draws(
        self, x: tf.TensorSpec, epsilon: tf.TensorSpec, given: tuple[tf.TensorSpec, ...]
    ) -> dict[str, Signature]:
        """The functions that draw from p(x|z), where `generate` and `reconstruct` give its mean.

        Args:
            x: the specification of the data.
            epsilon: that of the noise of z.
            given: those of further inputs.
        """
        uniform = _spec("uniform", self.likelihood.noise_shape(self.event_shape))

        def generated(epsilon: tf.Tensor, uniform: tf.Tensor, *given: tf.Tensor) -> dict[str, tf.Tensor]:
            parameters = self._parameters_of_x(self._from_prior(epsilon, *given), *given)
            return {"sample": self.likelihood.sample_from(parameters, uniform)}

        def reconstructed(
            x: tf.Tensor, epsilon: tf.Tensor, uniform: tf.Tensor, *given: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            parameters = self._scored(self._together(x, *given), epsilon)[1]
            return {"sample": self.likelihood.sample_from(parameters, uniform)}

        noise = "by noise epsilon from N(0, I) and uniform noise"
        return {
            "generate_sample": Signature(
                generated,
                (epsilon, uniform, *given),
                meaning=f"a draw of x: z from the prior and then from p(x|z), {noise}",
                draws=True,
            ),
            "reconstruct_sample": Signature(
                reconstructed,
                (x, epsilon, uniform, *given),
                meaning=f"a draw of x: z from q(z|x) and then from p(x|z), {noise}",
                draws=True,
            ),
        }

    def export_weights(self) -> list[Any]:
        """The weights of all parts."""
        return [weight for part in _parts(self) for weight in part.weights]

    def in_float32(self) -> Self:
        """The model itself; or, if it computes in half precision, which TFLite and many processors lack, a copy."""
        if all(layer.compute_dtype == "float32" for part in _parts(self) for layer in private_apis.layers_of(part)):
            return self
        with half_precision.policy_of_new_layers("float32"):
            copy = type(self).from_config(half_precision.with_float32(self.get_config()))
            copy.build((None, *self.event_shape))
            copy.decision = self.decision
        for part, original in zip(_parts(copy), _parts(self), strict=True):
            part.set_weights(original.get_weights())
        return copy

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared or calibrated: see `Exportable`.

        Args:
            x: data as for `fit`: an array [N, ...], or a dictionary of arrays with N rows. None draws z from N(0, I)
                and x ~ p(x|z), with example conditions if the model has conditions.
            rows: how many rows to take or, without x, to draw; None takes all, or draws 64.
        """
        if x is None:
            x = self._drawn_data(rows or _DRAWN_ROWS)
        x = self._arrays(x)
        # Numbers too large for float32 become infinite, which `check_data` refuses.
        with np.errstate(over="ignore"):
            x = {**x, "x": x["x"].astype(np.float32)} if isinstance(x, dict) else x.astype(np.float32)
        x = tf.nest.map_structure(lambda array: array[:rows], x)
        self.check_data(x)
        return x

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: whether the z for `decode` is drawn from q(z|x), where z lies in use, rather than from p(z).
        """
        data = x if isinstance(x, dict) else {"x": x}
        given = self._given_to_decoder(data)
        seed = 0 if calibrating else 1
        epsilon = np.random.default_rng(seed).standard_normal([len(data["x"]), self._epsilon_dim], np.float32)
        if calibrating:
            tensors = tf.nest.map_structure(lambda array: tf.constant(array, tf.float32), x)
            z = np.asarray(self._from_posterior(tensors, tf.constant(epsilon)))
        else:
            z = self._prior_draws(epsilon, given)
        examples = {
            "encode": data,
            "decode": {"z": z, **given},
            "reconstruct": data,
            "generate": {"epsilon": epsilon, **given},
            "score": {**data, "epsilon": epsilon},
            "serving_default": data,
            **{name: {"x": data["x"]} for name in self._functions_of_x},
            **({} if self.decision is None else {"detect": data}),
            **({"step": self._example_steps(data)} if self._detects_steps else {}),
        }
        if self.likelihood.samples_from_noise:
            inputs = {"generate_sample": examples["generate"], "reconstruct_sample": examples["score"]}
            # Those of x, which a model of a table replaces by those of numbers and codes.
            signatures = AutoencoderExport.export_signatures(self)
            for name, others in inputs.items():
                shape = [len(epsilon), *self.likelihood.noise_shape(self.event_shape)]
                examples[name] = {**others, "uniform": self._steady_noise(signatures[name], others, shape)}
        return examples

    def _steady_noise(self, signature: Signature, others: Arrays, shape: Sequence[int]) -> np.ndarray:
        """Uniform noise at which no draw jumps, so that two computations of it can be compared.

        A draw of a discrete x jumps where the noise passes a probability, which each computation rounds in its own way.

        Args:
            signature: a function that draws.
            others: its other inputs.
            shape: that of the noise, [N, ...].
        """
        rng = np.random.default_rng(3)

        def drawn(noise: np.ndarray) -> np.ndarray:
            return signature.of_model({**others, "uniform": noise})["sample"]

        noise = rng.random(shape, np.float32)
        for _ in range(_MOST_REDRAWS):
            low, high = drawn(noise - _NOISE_STEP), drawn(noise + _NOISE_STEP)
            jumps = np.abs(high - low) > _LARGEST_CHANGE * np.abs(low).max()
            if not jumps.any():
                break
            noise = np.where(np.repeat(jumps, 2, axis=-1), rng.random(noise.shape, np.float32), noise)
        return noise

    def export_units(self, offset: np.ndarray, scale: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
        """Those of the data for x, and for `mean` unless it is made of probabilities: see `Exportable`."""
        of_step = _of_step(offset), _of_step(scale)
        return {
            "x_t": None if of_step[0] is None or of_step[1] is None else of_step,
            "x": (offset, scale),
            "sample": (offset, scale),
            "mean": self.likelihood.units_of_mean(offset, scale, tuple(self.event_shape)),
        }

    def export_example(self, signatures: Mapping[str, Signature]) -> Arrays:
        """A row that the model draws: see `Exportable`."""
        x = self.export_data(None, 1)
        return x if isinstance(x, dict) else {"x": x}

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        names = self.likelihood.column_names
        return {
            "x": "the data" if names is None else f"the data, with the columns {', '.join(names)}",
            "z": "latent variables",
            "epsilon": "noise, drawn from N(0, I)",
            "uniform": "noise, drawn uniformly from [0, 1), two numbers for each element of x",
            "sample": "a draw of p(x|z), in the units of x",
            **{name: _GIVEN[name] for name in self._given_shapes},
            "loc": "the location of q(z|x)",
            "scale": "the scale of q(z|x)",
            "mean": "the mean of p(x|z)",
            **self._defined(
                {
                    "elbo": "a lower bound on log p(x), in nats; high for data like those of the training",
                    "reconstruction_log_likelihood": "log p(x|z), in nats",
                    "kl": "the divergence of q(z|x) from p(z), in nats",
                }
            ),
            **({"probabilities": "the probabilities of the classes, q(y|x)"} if self._functions_of_x else {}),
            **self._meanings_of_detection(),
        }

    def export_description(self) -> dict[str, Any]:
        """The event shape, latent dimension, shape of a condition, parts, and whether NaN may mark a missing value."""
        return {
            "event_shape": list(self.event_shape),
            **{f"{name}_shape": list(shape) for name, shape in self._given_shapes.items()},
            **self._description,
            "missing_values": self.likelihood.allows_missing,
            **({} if self.likelihood.column_names is None else {"columns": list(self.likelihood.column_names)}),
            **({} if self.decision is None else {"threshold": self.decision.threshold.to_dict()}),
            **({"state_shape": list(self._window_shapes()[1])} if self._detects_steps else {}),
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: the result of `export_signatures`.
        """
        fields = {
            "conditions": self._meaning_of_given,
            "channels": self._meaning_of_x,
            "event_shape": list(self.event_shape),
            "latent_dim": self._z_dim,
            "shorter": _SHORTER.format(steps=self.event_shape[0]) if self._takes_shorter else "",
        }
        return [("autoencoder.md", fields), *self._readme_of_steps(signatures)]

    def _defined(self, of_names: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of a mapping by names of outputs, without those of numbers that the model does not have."""
        return {name: value for name, value in of_names.items() if name not in self.undefined}

    @property
    def _scores_in_words(self) -> str:
        return "the ELBO and its terms" if self.has_bound else " and ".join(self._defined(_TERMS).values())

    def _together(self, x: tf.Tensor, *given: tf.Tensor) -> Any:
        """Combines the inputs of a signature into data in the form that `elbo_terms` takes."""
        return x

    def _example_conditions(self, rows: int) -> tuple[np.ndarray, ...]:
        """Conditions, each [rows, ...], to use beside drawn x if no data are given for the comparison."""
        return ()

    def _given_to_decoder(self, data: Arrays) -> Arrays:
        """The inputs of `decode` and `generate` other than z or noise, by name, taken from the data."""
        return {name: data[name] for name in self._given_shapes}

    @property
    def _functions_of_x(self) -> dict[str, tuple[Callable[[tf.Tensor], dict[str, tf.Tensor]], str]]:
        """The functions of x behind further signatures, which not every autoencoder has, each with its meaning."""
        return {}

    def _prior_draws(self, epsilon: np.ndarray, given: Arrays) -> np.ndarray:
        """The draws of z from the prior that are computed from the noise."""
        return np.asarray(self._from_prior(tf.constant(epsilon), *map(tf.constant, given.values())))

    def _drawn_data(self, rows: int) -> Any:
        z = np.random.default_rng(0).standard_normal([rows, self._z_dim], np.float32)
        conditions = self._example_conditions(rows)
        parameters = self._parameters_of_x(tf.constant(z), *(tf.constant(array, tf.float32) for array in conditions))
        x = self.likelihood.distribution(parameters).sample(seed=(0, 0)).numpy()
        if not np.isfinite(x).all():
            raise ValueError("`model` must generate finite data. Received: a model that generates NaN or infinity")
        if self.likelihood.allows_missing:
            x = np.where(self._missing_in_draws(x.shape), np.float32(np.nan), x)
        return self._together(x, *conditions)

    def _missing_in_draws(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements of drawn data are missing, about half of them."""
        return np.random.default_rng(2).uniform(size=shape) < 0.5


def _of_step(array: np.ndarray) -> np.ndarray | None:
    """An offset or a scale of windows [T, C] for one step [C]; None if it differs from step to step."""
    if array.ndim < 2:
        return array
    return array[0] if (array == array[:1]).all() else None


def _spec(name: str, shape: tuple[int, ...]) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], tf.float32, name)


def _data(arrays: Arrays) -> Any:
    """Converts the inputs of a signature to data in the form that the methods of a model take."""
    return arrays if len(arrays) > 1 else arrays["x"]


def _parts(model: AutoencoderExport) -> list[keras.layers.Layer]:
    values = (getattr(model, name) for name in model._PARTS)
    parts = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    # A critic is for the training alone.
    return [part for part in parts if isinstance(part, keras.layers.Layer) and part is not model.critic]
