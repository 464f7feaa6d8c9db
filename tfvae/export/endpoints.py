"""The functions of an exported model: one module and its signatures, the same in every format."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae.export import descriptions, units
from tfvae.exportable import Exportable, Signature
from tfvae.numerics import is_number

# The ops that call Python, and those that repeat a function.
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_LOOPS = {"While", "StatelessWhile"}
# The op that makes the list in which a loop gathers its steps.
_LIST = "TensorListReserve"


class Endpoints(tf.Module):
    """The functions of a model, in float32, with one copy of its weights, ready to be written to a file.

    They are the functions of its `export_signatures`: see `tfvae.export.Exportable`. The first axis of all inputs and
    outputs is the batch. With B the batch, L the latent dimension and `...` the event shape, a `tfvae.VAE` has

    - `encode(x [B, ...])`: the parameters of q(z|x) by name, `loc` and `scale` [B, L] for `DiagonalNormal`;
    - `decode(z [B, L])`: `mean` [B, ...], the mean of p(x|z);
    - `reconstruct(x [B, ...])`: `mean` [B, ...], at the mean of q(z|x);
    - `generate(epsilon [B, L])`: `mean` [B, ...], at the z ~ p(z) computed from noise epsilon ~ N(0, I);
    - `score(x [B, ...], epsilon [B, L])`: `elbo`, `reconstruction_log_likelihood` and `kl` [B] in nats, at the
      z ~ q(z|x) computed from epsilon; the noise is an input, so that the outputs depend on the inputs alone;
    - `serving_default(x [B, ...])`: the outputs of `reconstruct`, and those of `score` at the mean of q(z|x).

    If the likelihood can be drawn from by ops of TFLite (all but those of counts), it also has, with uniform
    [B, ..., 2 C] for x [B, ..., C] noise from U(0, 1), two numbers for each element of x,

    - `generate_sample(epsilon [B, L], uniform)`: `sample` [B, ...], drawn from p(x|z) at the z of `generate`;
    - `reconstruct_sample(x [B, ...], epsilon [B, L], uniform)`: `sample` [B, ...], from p(x|z) at the z of `score`.

    `mean` is the best guess, and varies less than data do; `sample` has the spread of data. An int8 file has no draws.

    If the model was calibrated (`tfvae.VAE.calibrate`), it also has

    - `detect(x [B, ...])`: `score` [B] in nats, 0 for typical data and high for anomalies; `is_anomaly` [B], 1.0 if the
      score is above the threshold and otherwise 0.0; `contributions` [B, ...] and `kl` [B], which sum to the score;

    and for windows x [B, T, C] of series

    - `step(x_t [B, C], state [B, T - 1, C])`: the outputs of `detect` for the window that ends with the step x_t, and
      the `state` [B, T - 1, C] for the next step. The first state is NaN. It is in the model's units, with `scaling`
      too. A model that does not take missing values gives NaN, and no anomaly, until it has seen T steps.

    For a `tfvae.ConditionalVAE`, each function also takes `condition` [B, C]. For a `tfvae.SemiSupervisedVAE`, each
    also takes `label` [B]; with x, a label of -1 stands for the most probable one. It also has

    - `classify(x [B, ...])`: `probabilities` [B, K], those of q(y|x).

    For a `tfvae.VQVAE`, `encode` gives the `codes` [B, ...] and `decode` takes them, integers as float32; `generate`
    takes noise `uniform` [B, D] from U(0, 1), one number for each code; and `score` takes x alone.

    For a `tfvae.HierarchicalVAE`, z is that of the first layer, epsilon is the noise of all layers in one tensor, and
    the names of the parameters of q end in the number of the layer, as in `loc_1`.

    With `scaling`, x, `sample` and `mean` are in raw units in all of these, unless the mean is made of probabilities.
    Each function except `serving_default` and those that draw is there in the model's units too, as `encode_normalized`
    and so on. Nats are always those of a density of the model's units.

    For a model of a table, x is numbers and codes [B, D], and so are `sample` and, but for probabilities, `mean`. With
    `takes_texts`, named inputs [B], one a column of the table, stand in the place of x: raw values, which are texts for
    categories that are texts and for dates. NaN and "" are missing values, and categories that the table does not have
    are the others.

    A row with a wrong value gets NaN in every output but a `state`, which is then the one that was given, as if the
    step had not been; the other rows get what they would get without it. Wrong are NaN, infinity, and a `label` or a
    code that is none; NaN in x is right where the likelihood allows missing values. Inputs of a wrong shape, or with
    different numbers of rows, are refused.

    Args:
        model: a model that is built.
        batch_size: a fixed B, or None for any.
        x: the data that were passed to the export, if the model needs them to know the shapes of its inputs.
        scaling: how raw data become those of the model, from `tfvae.export.units.make`; None means that the functions
            take and give the model's units.
        marks_wrong_rows: whether a row with a wrong value gets NaN; False is for formats without NaN.
        is_coarse: whether the arithmetic is coarser than that of float32; the functions that draw are then left out.
        takes_texts: whether a model of a table takes its columns by name, and a model of texts takes texts.
        takes_shorter: whether functions take sequences that are shorter than the model's, if it allows missing values.
        num_steps: T of a model of sequences of any length, for formats that need it fixed; None leaves it open.

    Raises:
        ValueError: the model is not built, or x is missing or invalid.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(
        self,
        model: Exportable,
        batch_size: int | None = None,
        x: Any = None,
        scaling: units.Units | None = None,
        marks_wrong_rows: bool = True,
        is_coarse: bool = False,
        takes_texts: bool = False,
        takes_shorter: bool = False,
        num_steps: int | None = None,
    ) -> None:
        super().__init__(name="tfvae")
        check_kind(model)
        model.check_exportable()
        self.parameters = [weight.value for weight in model.export_weights()]
        description = model.export_description() if marks_wrong_rows else None
        signatures = units.signatures(model, scaling, x)
        self.resources = [each.columns.resources for each in signatures.values() if takes_texts and each.columns]
        self.signatures_by_name = {
            name: _graph(signature, batch_size, description, takes_texts, takes_shorter, num_steps)
            for name, signature in signatures.items()
            if not ((is_coarse and signature.draws) or (signature.with_nan and not marks_wrong_rows))
        }

    def have_loops(self) -> bool:
        """Whether any of the functions has a loop in its graph, as recurrent layers do."""
        return any(node.op in _LOOPS for function in self.signatures_by_name.values() for node in _nodes(function))

    def list_of_open_shape(self) -> str | None:
        """The name of a list in which a loop gathers tensors of no fixed shape, as for any batch; None without one."""
        for function in self.signatures_by_name.values():
            definition = function.graph.as_graph_def()
            for nodes in (definition.node, *(part.node_def for part in definition.library.function)):
                constants = {node.name: node.attr["value"].tensor for node in nodes if node.op == "Const"}
                for node in nodes:
                    if node.op != _LIST or node.input[0].split(":")[0] not in constants:
                        continue
                    shape = tf.make_ndarray(constants[node.input[0].split(":")[0]])
                    # A scalar of -1 is that of a list which is never read.
                    if shape.ndim and (shape < 0).any():
                        return str(node.name)
        return None


class PosteriorEndpoints(Endpoints):
    """The functions of a fitted `tfvae.VariationalInference`, in float32, with one copy of its weights.

    The first axis of all inputs and outputs is the batch. With B the batch and L the dimension of the unconstrained
    space, the functions are

    - `sample(epsilon [B, L])`: the latent variables by name, each [B, ...]: draws from q, computed from noise
      epsilon ~ N(0, I);
    - `predict(x [B, ...])`: `mean` and `stddev` [B, ...] of the posterior predictive distribution, if the model has
      `predictive`; if that takes a dictionary, the inputs are named by its keys;
    - `serving_default`: `predict` if the model has it, otherwise `sample`.

    A row with a wrong value gets NaN in every output. Wrong are NaN, infinity, and a number such as 0.5 for an
    input whose values in `x` are integers or booleans.

    Args:
        model: a model that is fitted.
        x: new data in the form that `predictive` takes, an array or a dictionary of arrays; required if the model has
            `predictive`.

    Raises:
        ValueError: the model is not fitted, or x is missing or invalid.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(self, model: Exportable, x: Any = None) -> None:
        super().__init__(model, x=x)


def fixed_steps(model: Exportable, x: Any) -> int | None:
    """The number of steps in a format of one length: `export_length`, or that of x; None if no length is open.

    Args:
        model: the model.
        x: the data that were passed to the export.

    Raises:
        ValueError: the model takes sequences of any length, and there are no data.
    """
    if model.export_length is not None:
        return model.export_length
    specs = [spec for signature in model.export_signatures(x).values() for spec in signature.inputs]
    if not any(None in spec.shape[1:] for spec in specs):
        return None
    if x is None:
        raise ValueError(
            "`x` must hold data of the length that the file will take, because this format needs it fixed, and the "
            "model takes sequences of any length. Received: x=None"
        )
    return int(np.shape(x["x"] if isinstance(x, dict) else x)[1])


def check_kind(model: Exportable, file_format: str | None = None) -> None:
    """Raises ValueError unless a model is of a kind that can be exported to a format.

    Args:
        model: the model.
        file_format: the name of a format; None means any.
    """
    if not isinstance(model, Exportable):
        raise ValueError(f"`model` must be a tfvae.export.Exportable, such as a tfvae.VAE. Received: {model!r}")
    formats = model.export_formats
    if formats is not None and file_format not in (None, *formats):
        raise ValueError(
            f"`model` must be of another kind: models of the class {type(model).__name__} can only be exported as a "
            f"{' or a '.join(formats)}. Received: {model!r}"
        )


def _graph(
    signature: Signature,
    batch_size: int | None,
    description: Mapping[str, Any] | None,
    takes_texts: bool,
    takes_shorter: bool = False,
    num_steps: int | None = None,
) -> Any:
    """The concrete function of a signature, which marks wrong rows if it is given the model's description.

    Args:
        signature: the signature.
        batch_size: see `Endpoints`.
        description: the model's description, or None.
        takes_texts: see `Endpoints`.
        takes_shorter: see `Endpoints`.
        num_steps: see `Endpoints`.
    """
    inputs = signature.named_inputs if takes_texts else signature.inputs
    specs = tuple(
        tf.TensorSpec(
            [batch_size, *(num_steps if size is None else size for size in spec.shape[1:])], spec.dtype, spec.name
        )
        for spec in inputs
    )
    checked = _checked(signature, specs, description, takes_texts)
    if takes_shorter and signature.of_steps:
        checked, specs = _of_any_length(checked, signature.of_steps, specs)
    function = tf.function(checked, input_signature=specs, autograph=False).get_concrete_function()
    of_python = [node.name for node in _nodes(function) if node.op in _PYTHON]
    if of_python:
        # It would run in this process, where it is compared with the model, and in no other.
        raise NotImplementedError(
            "`model` must be made of TensorFlow's ops: `tf.numpy_function` and `tf.py_function` call Python, which no "
            f"export contains. Received: {of_python[0]!r}"
        )
    return function


def _nodes(function: Any) -> list[Any]:
    """The nodes of a concrete function and of the functions that it calls."""
    definition = function.graph.as_graph_def()
    return [*definition.node, *(node for part in definition.library.function for node in part.node_def)]


def _checked(
    signature: Signature,
    specs: tuple[tf.TensorSpec, ...],
    description: Mapping[str, Any] | None,
    takes_texts: bool,
) -> Callable[..., dict[str, tf.Tensor]]:
    """The function of a signature, with checks of its inputs in the graph.

    A server passes on what a client sends, and an input of the wrong rank to a convolution kills the server's process.
    """

    def checked(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        first, *others = (tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(tensors, specs, strict=True))
        for tensor in others:
            # Without this check, an input with a single row would be broadcast.
            tf.debugging.assert_equal(
                tf.shape(tensor)[0], tf.shape(first)[0], "the inputs differ in their number of rows"
            )
        named = {spec.name: tensor for spec, tensor in zip(specs, (first, *others), strict=True)}
        if takes_texts and signature.columns is not None:
            named["x"] = signature.columns.in_graph(named)
        named = {spec.name: named[spec.name] for spec in signature.inputs}
        outputs = signature.function(*named.values())
        shapes = {name: [-1, *output.shape[1:]] for name, output in outputs.items()}
        if description is not None:
            wrong = _nan_where_wrong(named, description)
            # A state of NaN would be that of a series that only begins.
            outputs = {
                name: _unless_wrong(output, named[name], wrong)
                if descriptions.is_state(name, description) and name in named
                else _plus(output, wrong)
                for name, output in outputs.items()
            }
        if first.shape[0] is not None:
            outputs = {name: _separate(output) for name, output in outputs.items()}
        # LiteRT's `CompiledModel` returns memory that was never written, without an error, for an output whose last op
        # is a reshape to a shape that the graph computes. So the last op is a sum, or a reshape to a constant shape.
        return {
            name: output
            if None in shapes[name] or (description is not None and output.shape.rank == len(shapes[name]))
            else tf.reshape(output, shapes[name])
            for name, output in outputs.items()
        }

    return checked


def _of_any_length(
    function: Callable[..., dict[str, tf.Tensor]], of_steps: Sequence[str], specs: tuple[tf.TensorSpec, ...]
) -> tuple[Callable[..., dict[str, tf.Tensor]], tuple[tf.TensorSpec, ...]]:
    """A function that pads what is shorter than the function takes, and its specifications: see `Signature`."""
    open_specs = tuple(
        tf.TensorSpec([spec.shape[0], None, *spec.shape[2:]], spec.dtype, spec.name) if spec.name in of_steps else spec
        for spec in specs
    )

    def padding(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        padded = []
        for tensor, given, spec in zip(tensors, open_specs, specs, strict=True):
            if given is not spec:
                number = tf.shape(tf.ensure_shape(tensor, given.shape))[1]
                most = spec.shape[1]
                tf.debugging.assert_less_equal(number, most, f"{spec.name} has more than {most} steps")
                around = [[0, 0], [0, most - number], *[[0, 0]] * (spec.shape.rank - 2)]
                tensor = tf.ensure_shape(tf.pad(tensor, around, constant_values=math.nan), spec.shape)
            padded.append(tensor)
        outputs = function(*padded)
        return {name: output[:, :number] if name in of_steps else output for name, output in outputs.items()}

    return padding, open_specs


def _plus(output: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """An output [B, ...] plus a number for each row [B, 1]; with two axes at most, which every runtime broadcasts."""
    if None in output.shape[1:]:
        return output + tf.reshape(number, [-1, *(1 for _ in output.shape[1:])])
    return output + tf.reshape(number, [-1]) if output.shape.rank == 1 else _rows(output) + number


def _unless_wrong(after: tf.Tensor, before: tf.Tensor, wrong: tf.Tensor) -> tf.Tensor:
    """The state after a step [B, ...]; for a row whose number in `wrong` [B, 1] is NaN, that before it."""
    return tf.where(is_number(wrong), _rows(after), _rows(before))


def _rows(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor [B, ...] as [B, size]."""
    if None in tensor.shape[1:]:
        # Sequences of any number of steps, which TFLite is not given.
        return tf.reshape(tensor, [tf.shape(tensor)[0], tf.reduce_prod(tf.shape(tensor)[1:])])
    # The converter to TFLite keeps a reshape that changes nothing, which costs as much as other small ops.
    return tensor if tensor.shape.rank == 2 else tf.reshape(tensor, [-1, math.prod(tensor.shape[1:])])


def _nan_where_wrong(inputs: Mapping[str, tf.Tensor], description: Mapping[str, Any]) -> tf.Tensor:
    """For each row of the inputs, 0 if all values are right and NaN if one is wrong, float32 [B, 1].

    This is added to the outputs, because a check that fails would fail for all the requests that a server has put in
    one batch; and it is needed, because a network may turn NaN into a number: in LiteRT relu(NaN) is 0.
    """
    finite = []
    for name, values in inputs.items():
        limits = descriptions.integers(name, inputs, description)
        if limits is not None:
            is_right = (values >= limits[0]) & (values <= limits[1]) & tf.equal(values, tf.floor(values))
            values = tf.where(is_right, 0.0, math.nan)
        elif descriptions.may_be_nan(name, description):
            values = tf.where(is_number(values), values, 0.0)
        finite.append(_rows(values))
    # NaN and infinity times 0 are NaN. Not `x - x`, which the converter to TFLite takes for 0.
    return tf.reduce_sum(0.0 * (tf.concat(finite, axis=1) if finite[1:] else finite[0]), axis=1, keepdims=True)


def _separate(output: tf.Tensor) -> tf.Tensor:
    """The output of a graph; if other ops read it too, as the result of an op of its own.

    A GPU delegate merges a convolution with a multiplication that follows it, and then never writes the result of the
    convolution, even if it is an output.
    """
    source = output
    while source.op.type == "Identity":
        source = source.op.inputs[0]
    if not _is_read(source):
        return output
    # The converter removes ops that change nothing, such as a reshape to the same shape. This one changes no number but
    # 0 and its closest neighbours.
    return output + np.finfo(np.float32).tiny


def _is_read(tensor: tf.Tensor) -> bool:
    """Whether any op but a copy reads a tensor or a copy of it."""
    return any(op.type != "Identity" or _is_read(op.outputs[0]) for op in tensor.consumers())
