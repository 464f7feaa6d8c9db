"""Networks whose activations are computed again in the backward pass, which saves their memory."""

from collections.abc import Iterable
from typing import Any

import keras

from tfvae import checks, private_apis


@keras.saving.register_keras_serializable("tfvae.networks")
class Recomputed(keras.layers.Layer):
    """Computes a network, and in the backward pass computes it again instead of having kept its activations.

    Only what goes into the network is kept, so that a deep stack of residual blocks, each of them `Recomputed`, needs
    the memory of one block and of the states between them. Gradients are the same, and a step takes about a third
    longer. `keras.RematScope` does not do in a functional model with TensorFlow: it fails in a graph.

    Args:
        network: a functional or sequential Keras model, or a built layer, from one tensor or a list of tensors. It must
            not draw random numbers or have state, as dropout and batch normalisation do: the second computation would
            differ from the first. Noise that is in none of its variables, as of a `Lambda` with `tf.random.normal`,
            cannot be seen: the gradient is then wrong. It must not add losses either, as an `activity_regularizer`
            does, because their gradients would be lost; those of kernels and biases are kept. Or its configuration.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: the network is not built, draws random numbers, has state or an `activity_regularizer`; or, when
            it is called, a layer of it adds a loss.

    Reference: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, section 3.
    """

    def __init__(self, network: keras.layers.Layer | dict[str, Any], **kwargs: Any) -> None:
        if isinstance(network, dict):
            network = keras.saving.deserialize_keras_object(network)
        if not isinstance(network, keras.layers.Layer) or not network.built:
            raise ValueError(
                "`network` must be a Keras model or layer that is built, such as a functional model. Received: "
                f"network={checks.shown(network)}"
            )
        layers = private_apis.layers_of(network)
        trained = {id(variable) for layer in layers for variable in private_apis.own_trainable_variables(layer)}
        state = [variable.path for variable in network.variables if id(variable) not in trained]
        if state:
            raise ValueError(
                "`network` must neither draw random numbers nor have state, because it is computed twice. Received: a "
                f"network with {checks.shown_names(state)}"
            )
        _refuse_losses(layer for layer in layers if layer.activity_regularizer is not None)
        super().__init__(**{"dtype": network.dtype_policy, **kwargs})
        self.network = network

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns what the network returns."""

        def compute(*tensors: Any) -> Any:
            return self.network(keras.tree.pack_sequence_as(inputs, tensors), training=training)

        outputs = keras.remat(compute)(*keras.tree.flatten(inputs))
        # Only now has `add_loss` been called.
        _refuse_losses(layer for layer in private_apis.layers_of(self.network) if private_apis.has_added_losses(layer))
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of what the network returns."""
        return self.network.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}


def _refuse_losses(layers: Iterable[keras.layers.Layer]) -> None:
    """Raises ValueError if there are any of such layers, which add losses."""
    names = [layer.name for layer in layers]
    if names:
        raise ValueError(
            "`network` must not add losses, as an activity_regularizer or `add_loss` does, because their gradients "
            "would be lost: leave this network as it is, not recomputed. Received: a network with the layers "
            f"{checks.shown_names(names)}"
        )
