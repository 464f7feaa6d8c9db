"""What an exported model can be asked: one module and its signatures, the same in every format."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfvae.exportable import Exportable, Signature


class Endpoints(tf.Module):
    """The functions of a model, in float32, over one copy of its weights, ready to be written to a file.

    They are those of its `export_signatures`, see `tfvae.export.Exportable`. Each takes and gives tensors that lead
    with the batch. Of a `tfvae.VAE`, with B batch, L latent dimension, `...` the event shape, they are

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
        x: the data that the export was given, where the model needs them to know the shapes of its inputs.

    Raises:
        ValueError: the model is not built, or x is not what it must be.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(self, model: Exportable, batch_size: int | None = None, x: Any = None) -> None:
        super().__init__(name="tfvae")
        check_kind(model)
        model.check_exportable()
        self.parameters = [weight.value for weight in model.export_weights()]
        self.signatures_by_name = {
            name: _graph(signature, batch_size) for name, signature in model.export_signatures(x).items()
        }


class PosteriorEndpoints(Endpoints):
    """The functions of a fitted `tfvae.VariationalInference`, in float32, over one copy of its weights.

    Each takes and gives tensors that lead with the batch. B batch, L the dimension of the unconstrained space:

    - `sample(epsilon [B, L])`: the latent variables by name, each [B, ...]: the draws of q that the noise
      epsilon ~ N(0, I) stands for;
    - `predict(x [B, ...])`: `mean` and `stddev` [B, ...] of the posterior predictive distribution, where the model has
      `predictive`; of a dictionary the inputs have the names;
    - `serving_default`: `predict` where it is there, and else `sample`.

    Args:
        model: a model that is fitted.
        x: new data as `predictive` takes them, an array or a dictionary of arrays; needed where the model has that.

    Raises:
        ValueError: the model is not fitted, or x is not what it must be.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(self, model: Exportable, x: Any = None) -> None:
        super().__init__(model, x=x)


def check_kind(model: Exportable, file_format: str | None = None) -> None:
    """Raises ValueError unless a model is of a kind that can be exported.

    Args:
        model: the model.
        file_format: the name of a format; None means any.
    """
    if not isinstance(model, Exportable):
        raise ValueError(f"`model` must be a tfvae.VAE. Received: {model!r}")
    formats = model.export_formats
    if formats is not None and file_format not in (None, *formats):
        raise ValueError(
            f"`model` must be a tfvae.VAE; a {type(model).__name__} exports as a {' or a '.join(formats)}. Received: "
            f"{model!r}"
        )


def _graph(signature: Signature, batch_size: int | None) -> Any:
    """The concrete function of a signature."""
    specs = tuple(tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, name=spec.name) for spec in signature.inputs)
    return tf.function(_checked(signature.function, specs), input_signature=specs).get_concrete_function()


def _checked(
    function: Callable[..., dict[str, tf.Tensor]], specs: tuple[tf.TensorSpec, ...]
) -> Callable[..., dict[str, tf.Tensor]]:
    """The function, with the shapes of its inputs checked in the graph.

    A server hands on what a client sends, and a convolution given the wrong rank ends the server's process.
    """

    def checked(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        first, *others = (tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(tensors, specs, strict=True))
        for tensor in others:
            # A batch of one would be broadcast.
            tf.debugging.assert_equal(tf.shape(tensor)[0], tf.shape(first)[0], "the inputs differ in their rows")
        return function(first, *others)

    return checked
