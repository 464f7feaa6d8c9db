"""The refusals of TFLite's converter and of LiteRT, in two lines that name the layer and the way out."""

import re

# An error of the converter: the op, its name in the graph, which begins with that of its layer, and what is wrong.
_ERROR = re.compile(r'error: loc\((?:callsite\()?fused\["(?P<op>\w+):", "(?P<path>[^"@]*)[^\n]*?\)+: (?P<said>[^\n]*)')
# The ops of the lists in which a loop gathers its steps.
_LISTS = "TensorList"
_MISSING = "is neither a custom op nor a flex op"
# How many ops are named.
_NAMED = 3
_WAY_OUT = (
    "Use layers and parts whose ops TFLite has, or export the model in a format that has them: "
    "tfvae.export.saved_model(model, path) or tfvae.export.onnx(model, path)"
)

_WAY_OUT_OF_LISTS = (
    "Export it with batch_size=1, and a fixed number of steps; or make the recurrent layers with unroll=True, or of "
    "convolutions instead, as tfvae.networks.temporal_encoder does, for any batch"
)


class BatchSizeError(NotImplementedError):
    """A model was refused for a reason that may hold for batches of any size only, and not for a batch of 1."""


def of_converter(said: str) -> NotImplementedError:
    """The error to raise for what the converter said, which may be 16,000 characters that name its own options."""
    errors = [match.groupdict() for match in _ERROR.finditer(said)]
    missing = [error for error in errors if _MISSING in error["said"]]
    if missing:
        places = list(dict.fromkeys(f"{error['op']}{_layer(error['path'])}" for error in missing))
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        return NotImplementedError(
            "TFLite cannot run this model with its built-in ops, among which is no "
            f"{', '.join(places[:_NAMED])}{more}.\n{_WAY_OUT}"
        )
    of_lists = next((error for error in errors if error["op"].startswith(_LISTS)), None)
    if of_lists is not None:
        # What the converter says of them is about its own options.
        return of_list(of_lists["path"])
    if errors:
        op, path, reason = (errors[0][key] for key in ("op", "path", "said"))
        return of_runtime(f"{op}{_layer(path)}: {reason}")
    return of_runtime(next((line for line in said.splitlines() if line.strip()), "no reason"))


def of_list(path: str) -> BatchSizeError:
    """The error to raise for a list in which a loop gathers its steps.

    Args:
        path: the name of the list in the graph, which begins with that of its layer.
    """
    layer = _layer(path)
    loop = f"the loop of a recurrent layer{layer}" if layer else "a loop over the steps"
    return BatchSizeError(f"TFLite runs {loop} only for a batch of 1 and a fixed number of steps.\n{_WAY_OUT_OF_LISTS}")


def of_runtime(said: str) -> BatchSizeError:
    """The error to raise for one of LiteRT, or of the converter about something else than a missing op."""
    return BatchSizeError(f"TFLite cannot run this model with its built-in ops: {_shortened(said)}\n{_WAY_OUT}")


def _layer(path: str) -> str:
    """The layer from the name of an op in the graph, which ends in that of the op itself."""
    layer = path.rpartition("/")[0]
    return f" (in the layer {layer!r})" if layer else ""


def _shortened(text: str, length: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "..."
