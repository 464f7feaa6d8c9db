"""What an exported model can be asked: one module and its signatures, the same in every format."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfvae import private_apis
from tfvae.models.autoencoder import Autoencoder

# Those of every model. Never one called "serve": of a SavedModel with that attribute TFLite converts nothing but
# serving_default.
SIGNATURES = ("encode", "decode", "reconstruct", "generate", "score", "serving_default")


class Endpoints(tf.Module):
    """The functions of a trained model, in float32, over one copy of its weights.

    Each takes and gives tensors that lead with the batch. B batch, L latent dimension, `...` the event shape:

    - `encode(x [B, ...])`: the parameters of q(z|x) by name, `loc` and `scale` [B, L] for `DiagonalNormal`;
    - `decode(z [B, L])`: `mean` [B, ...], the mean of p(x|z);
    - `reconstruct(x [B, ...])`: `mean` [B, ...], at the mean of q(z|x);
    - `generate(epsilon [B, L])`: `mean` [B, ...], at the z ~ p(z) that the noise epsilon ~ N(0, I) stands for;
    - `score(x [B, ...], epsilon [B, L])`: `elbo`, `log_likelihood` and `kl` [B] in nats, at the z ~ q(z|x) that epsilon
      stands for; noise is an input, so that an answer is a function of the question;
    - `serving_default(x [B, ...])`: what `reconstruct` gives and what `score` gives, at the mean of q(z|x).

    Of a `tfvae.ConditionalVAE` each takes `condition` [B, C] too. Of a `tfvae.SemiSupervisedVAE` each takes `label`
    [B], where it takes x too -1 for the most probable one; a SavedModel refuses other numbers. And there is

    - `classify(x [B, ...])`: `probabilities` [B, K], those of q(y|x).

    Of a `tfvae.HierarchicalVAE` z is that of the first layer, epsilon the noise of all layers in one tensor, and the
    parameters of q have the numbers of their layers, as `loc_1`.

    Args:
        model: a model that is built.
        batch_size: a fixed B, or None for any.

    Raises:
        ValueError: the model is not built.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(self, model: Autoencoder, batch_size: int | None = None) -> None:
        super().__init__(name="tfvae")
        if model.event_shape is None:
            raise ValueError("`model` must be built before it is exported: fit it, or call it. Received: a new model")
        self.parameters = [weight.value for part in _parts(model) for weight in part.weights]
        x = tf.TensorSpec([batch_size, *model.event_shape], tf.float32, name="x")
        z = tf.TensorSpec([batch_size, model._z_dim], tf.float32, name="z")
        epsilon = tf.TensorSpec([batch_size, model._epsilon_dim], tf.float32, name="epsilon")
        conditions = tuple(
            tf.TensorSpec([batch_size, *shape], tf.float32, name=name) for name, shape in model._given_shapes.items()
        )
        specs = {
            "encode": (x, *conditions),
            "decode": (z, *conditions),
            "reconstruct": (x, *conditions),
            "generate": (epsilon, *conditions),
            "score": (x, epsilon, *conditions),
            "serving_default": (x, *conditions),
            **dict.fromkeys(model._functions_of_x, (x,)),
        }
        functions = _functions(model)
        self.signatures_by_name = {
            name: tf.function(checked(functions[name], spec), input_signature=spec).get_concrete_function()
            for name, spec in specs.items()
        }


def _functions(model: Autoencoder) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The functions behind the signatures, by name: those that the model itself uses."""
    data = model._together

    def serving_default(x: tf.Tensor, *conditions: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mean": model.call(data(x, *conditions)), **model._score_at_mean(data(x, *conditions))}

    return {
        "encode": lambda x, *conditions: model._encode(data(x, *conditions)),
        "decode": lambda z, *conditions: {"mean": model._decode(z, *conditions)},
        "reconstruct": lambda x, *conditions: {"mean": model.call(data(x, *conditions))},
        "generate": lambda epsilon, *conditions: {"mean": model._generate(epsilon, *conditions)},
        "score": lambda x, epsilon, *conditions: model._score(data(x, *conditions), epsilon),
        "serving_default": serving_default,
        **model._functions_of_x,
    }


def checked(
    function: Callable[..., dict[str, tf.Tensor]], specs: tuple[tf.TensorSpec, ...]
) -> Callable[..., dict[str, tf.Tensor]]:
    """The function, with the shapes of its inputs checked in the graph.

    A server hands on what a client sends, and a convolution given the wrong rank ends the server's process.

    Args:
        function: what is served.
        specs: the inputs.
    """

    def checked(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = [tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(tensors, specs, strict=True)]
        for tensor in tensors[1:]:
            # A batch of one would be broadcast.
            tf.debugging.assert_equal(tf.shape(tensor)[0], tf.shape(tensors[0])[0], "the inputs differ in their rows")
        return function(*tensors)

    return checked


def _parts(model: Autoencoder) -> tuple[keras.layers.Layer, ...]:
    values = (getattr(model, name) for name in model._PARTS)
    parts = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for value in values)
    return tuple(part for part in parts if isinstance(part, keras.layers.Layer))


def in_float32(model: Autoencoder) -> Autoencoder:
    """The model, or a copy where it computes in half precision, which TFLite and many processors lack."""
    if not isinstance(model, Autoencoder):
        hint = "; a VariationalInference exports as a SavedModel" if hasattr(model, "approximation") else ""
        raise ValueError(f"`model` must be a tfvae.VAE{hint}. Received: {model!r}")
    if model._no_export:
        raise NotImplementedError(f"A {type(model).__name__} has no export: {model._no_export}")
    if all(layer.compute_dtype == "float32" for part in _parts(model) for layer in private_apis.layers_of(part)):
        return model
    # Layers that a user's own network makes take the global policy, whatever its configuration says.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = type(model).from_config(_with_float32(model.get_config()))
        copy.build((None, *model.event_shape))
    finally:
        keras.config.set_dtype_policy(policy)
    for part, original in zip(_parts(copy), _parts(model), strict=True):
        part.set_weights(original.get_weights())
    return copy


def _with_float32(config: Any) -> Any:
    """A Keras configuration with every dtype policy put to float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {key: _with_float32(value) for key, value in config.items()}
    return [_with_float32(value) for value in config] if isinstance(config, list) else config
