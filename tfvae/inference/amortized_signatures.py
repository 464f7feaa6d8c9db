"""How amortised inference is exported: it implements the contract of `tfvae.exportable`."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.exportable import Arrays, Signature
from tfvae.inference.users_model import UsersModel

_DRAWN_ROWS = 64
_OF_DRAWS = "one draw of the latent variables from q(theta | x) for each row of x and of noise epsilon from N(0, I)"
_OF_DENSITY = "log q(theta | x), in nats, at latent variables in their own units"
_OF_UNLIKENESS = "how unlike the simulated data x is: above 1, q was not trained on such data"


class AmortizedExport(UsersModel):
    """The signatures of amortised inference, which `export_signatures` lists."""

    timed_signature = "sample"
    takes_units = False
    _readme = "amortized.md"

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        if self.event_shape is None or float(self.standardized) == 0.0:
            raise ValueError("`model` must be fitted before it is exported. Received: a model that is not")
        if None in self.event_shape:
            raise NotImplementedError(
                "`encoder` must declare all sizes of x for an export, such as the number of elements of a set. "
                f"Received: an encoder of x of shape {[None, *self.event_shape]}"
            )

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name.

        - `sample(x [B, ...], epsilon [B, L])`: the latent variables by name, each [B, ...], drawn from q(theta | x) by
          noise epsilon ~ N(0, I); `serving_default` is the same;
        - `log_prob(x, ...)`: `log_prob` [B], log q(theta | x) at latent variables by name, each [B, ...];
        - `unlikeness(x)`: `unlikeness` [B], above 1 where x is unlike the simulated data.

        Args:
            x: has no effect.
        """
        of_x, epsilon = _spec("x", self.event_shape), _spec("epsilon", (self.space.dim,))
        latents = [_spec(name, shape) for name, shape in self.space.shapes.items()]

        def sample(x: tf.Tensor, epsilon: tf.Tensor) -> dict[str, tf.Tensor]:
            parameters = self.posterior(self._features(x))
            values, _ = self._constrained(self.posterior.sample_from(parameters, epsilon))
            # Constant shapes, because LiteRT's CompiledModel misreads those that a bijector of TFP computes.
            return {name: tf.reshape(values[name], [-1, *shape]) for name, shape in self.space.shapes.items()}

        def log_prob(x: tf.Tensor, *values: tf.Tensor) -> dict[str, tf.Tensor]:
            log_q, is_inside = self._log_prob(dict(zip(self.space.names, values, strict=True)), x)
            return {"log_prob": tf.where(is_inside, log_q, -np.inf)}

        row = {spec.name: np.zeros(spec.shape[1:]).tolist() for spec in (of_x, epsilon)}
        of_draws = Signature(sample, (of_x, epsilon), request=row, meaning=_OF_DRAWS)
        return {
            "sample": of_draws,
            "log_prob": Signature(log_prob, (of_x, *latents), meaning=_OF_DENSITY),
            "unlikeness": Signature(
                lambda x: {"unlikeness": self._relative_distance(x)}, (of_x,), meaning=_OF_UNLIKENESS
            ),
            "serving_default": of_draws,
        }

    def export_weights(self) -> list[Any]:
        """The weights of q, with those of the standardisation and of typical data."""
        own = [self.theta_loc, self.theta_scale, self.x_loc, self.x_scale]
        layers = [layer for layer in (self.encoder, self.posterior, self.typical) if layer is not None]
        return own + [weight for layer in layers for weight in layer.weights]

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data sets with which an export is compared: see `Exportable`.

        Args:
            x: data sets [N, ...]; None simulates some.
            rows: how many rows to take; None means all.
        """
        if x is None:
            x = self.simulate(_DRAWN_ROWS if rows is None else min(rows, _DRAWN_ROWS), seed=0)[self.data]
        x = checks.to_numpy(x)[:rows]
        self._check_x(x)
        return x.astype(np.float32)

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: has no effect.
        """
        noise = np.random.default_rng(0).standard_normal([len(x), self.space.dim]).astype(np.float32)
        sample = {"x": x, "epsilon": noise}
        values, _ = self._run(self._draw, tf.constant(x), tf.constant([0, 1]), num_samples=1)
        latents = {name: value[0].numpy() for name, value in values.items()}
        return {
            "sample": sample,
            "log_prob": {"x": x, **latents},
            "unlikeness": {"x": x},
            "serving_default": sample,
        }


def _spec(name: str, shape: tuple[int, ...]) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], tf.float32, name)
