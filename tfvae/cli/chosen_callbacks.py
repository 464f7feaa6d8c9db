"""`--callbacks`: callbacks of Keras, of tfvae or of other packages, chosen by name, with arguments."""

import importlib
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfvae import checks

if TYPE_CHECKING:
    import keras
    import numpy as np

_FLAG = "--callbacks"
# The modules whose classes need no --allow_import; in their order a name without a module is looked up.
_MODULES = ("keras.callbacks", "tfvae.callbacks")
_HAS_CHECKPOINTS = "each run has checkpoints, as --save_freq says, and --resume goes on from them"
_TAKES_FUNCTIONS = (
    "it takes functions, which cannot be given as text: make a class of your own, whose module `--allow_import` names"
)
# What is no callback for a run, and why.
_NOT_FOR_RUNS = {
    "BackupAndRestore": _HAS_CHECKPOINTS,
    "Checkpoints": _HAS_CHECKPOINTS,
    "OrbaxCheckpoint": _HAS_CHECKPOINTS,
    "LambdaCallback": _TAKES_FUNCTIONS,
    "LearningRateScheduler": _TAKES_FUNCTIONS,
    "SwapEMAWeights": "give `--ema` instead, such as --ema 0.999",
    "Convergence": "it is for `tfvae.VariationalInference`",
    "Callback": "it does nothing",
    "CallbackList": "it is no callback itself: give those in it",
    "History": "each run has its metrics in history.csv",
    "ProgbarLogger": "each run has a line of its progress",
}
# The arguments of callbacks that are paths to write to, and whether they are folders.
_PATHS = {
    "CSVLogger": {"filename": False},
    "ModelCheckpoint": {"filepath": False},
    "TensorBoard": {"log_dir": True},
    "Pictures": {"folder": True, "log_dir": True},
}
# Whether a metric is to rise or to fall, where Keras does not know it.
_MODES = {"elbo": "max", "reconstruction_log_likelihood": "max", "kl": "min"}


def folded(words: Sequence[str], load: Callable[[str], Any]) -> list[str]:
    """Puts each callback of a command line and its arguments into one word, which appends to those of a file.

    `--callbacks A --callbacks.x 1` becomes `--callbacks+={"class_path": "A", "init_args": {"x": 1}}`.

    Args:
        words: the words of the command line.
        load: reads a value in YAML.

    Raises:
        ValueError: an argument comes before all callbacks, or a value is not YAML.
    """
    found: list[str | dict[str, Any]] = []
    last: dict[str, Any] | None = None
    rest = iter(words)
    for word in rest:
        flag, separator, value = word.partition("=")
        name = flag.removesuffix("+")
        if name != _FLAG and not name.startswith(f"{_FLAG}."):
            found.append(word)
            continue
        value = value if separator else next(rest, "")
        if name != _FLAG:
            argument = name.removeprefix(f"{_FLAG}.").removeprefix("init_args.")
            if last is None:
                raise ValueError(f"`{name}` must come after the callback that it is for. Received: {name} {value}")
            last["init_args"][argument] = _loaded(value, load, name)
        elif value[:1] in ("[", "{") or value in ("", "null"):
            content = _loaded(value, load, name)
            if isinstance(content, Mapping):
                last = {"class_path": None, **content, "init_args": dict(content.get("init_args") or {})}
                found.append(last)
            else:
                # A whole list, or none, takes the place of what there was.
                found.append(f"{flag}={json.dumps(content or [])}")
        else:
            last = {"class_path": value, "init_args": {}}
            found.append(last)
    return [word if isinstance(word, str) else f"{_FLAG}+={json.dumps(word, default=str)}" for word in found]


def _loaded(value: str, load: Callable[[str], Any], name: str) -> Any:
    try:
        return load(value)
    except Exception as error:  # PyYAML raises errors of many kinds.
        raise ValueError(f"`{name}` must be a value in YAML. Received: {value}") from error


def check(
    chosen: Any, allowed: Sequence[str], *, schedule: str, is_table: bool, is_sequence: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """Checks a choice of callbacks, as far as this is known without importing them.

    Args:
        chosen: the choice: each a name, or a class_path with init_args; or None.
        allowed: the modules that `--allow_import` names.
        schedule: that of the learning rate.
        is_table: whether the run is of a table.
        is_sequence: whether it is of series.

    Returns:
        The class path and the arguments of each.

    Raises:
        ValueError: a choice has another form, is of a module that is not allowed, or is not one for this run.
        ImportError: it needs a package that is not installed.
    """
    found = []
    for each in chosen or ():
        each = {"class_path": each} if isinstance(each, str) else each
        path, arguments = each.get("class_path"), each.get("init_args") or {}
        if not isinstance(path, str) or not isinstance(arguments, Mapping) or each.keys() - {"class_path", "init_args"}:
            raise ValueError(f"`{_FLAG}` must be names of callbacks, or class_path with init_args. Received: {each!r}")
        module, _, name = path.rpartition(".")
        if not all(part.isidentifier() for part in path.split(".")):
            raise ValueError(f"`{_FLAG}` must be the name of a callback, such as TensorBoard. Received: {path!r}")
        if module and module not in _MODULES and not any(f"{module}.".startswith(f"{each}.") for each in allowed):
            raise ValueError(
                f"`{_FLAG}` must be a callback of {' or '.join(_MODULES)}, or of a module that `--allow_import` names, "
                f"such as --allow_import {module}. Received: {path}"
            )
        if not module or module in _MODULES:
            _check_for_run(name, arguments, schedule, "a table" if is_table else "series" if is_sequence else None)
        found.append((path, dict(arguments)))
    return found


def _check_for_run(name: str, arguments: Mapping[str, Any], schedule: str, no_pictures: str | None) -> None:
    """Raises an error if a callback of Keras or tfvae is not one for the run."""
    if name in _NOT_FOR_RUNS:
        raise ValueError(f"`{_FLAG}` must not have {name}: {_NOT_FOR_RUNS[name]}. Received: {name}")
    if name == "ReduceLROnPlateau" and schedule != "constant":
        raise ValueError(
            f"`{_FLAG} {name}` sets the learning rate, which needs `--schedule constant`. Received: --schedule "
            f"{schedule}"
        )
    if name == "Pictures" and no_pictures:
        raise ValueError(f"`{_FLAG} Pictures` must not be given for {no_pictures}. Received: {name}")
    needs_tensorboard = name == "TensorBoard" or (name == "Pictures" and arguments.get("log_dir") is not None)
    if needs_tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(f"`{_FLAG} {name}` needs `pip install 'tfvae[tensorboard]'`. Received: {name}")
    if name == "RemoteMonitor" and importlib.util.find_spec("requests") is None:
        raise ImportError(f"`{_FLAG} {name}` needs `pip install requests`. Received: {name}")
    for argument, is_folder in _PATHS.get(name, {}).items():
        if arguments.get(argument) is not None:
            _check_path(argument, arguments[argument], is_folder=is_folder, parents_are_made=name != "CSVLogger")


def _check_path(argument: str, path: Any, *, is_folder: bool, parents_are_made: bool) -> None:
    """Raises ValueError unless a callback can write to a path."""
    what = "a folder" if is_folder else "a file"
    if not isinstance(path, str) or not path:
        raise ValueError(f"`{_FLAG}.{argument}` must be the path of {what}. Received: {path!r}")
    if "://" in path:
        return
    if os.path.exists(path) and os.path.isdir(path) != is_folder:
        raise ValueError(f"`{_FLAG}.{argument}` must be {what}, or new. Received: {path}, which is something else")
    parents = Path(path).absolute().parents
    above = next(each for each in parents if each.exists() or not parents_are_made)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(
            f"`{_FLAG}.{argument}` must be in a folder that {'can be made' if parents_are_made else 'exists'}, and can "
            f"be written to. Received: {path}"
        )


def resolve(path: str, arguments: Mapping[str, Any]) -> type["keras.callbacks.Callback"]:
    """The class of a callback, which takes these arguments.

    Args:
        path: its name, or its class path.
        arguments: by name.

    Raises:
        ValueError: there is no such callback, or it does not take an argument.
        ImportError: its module cannot be imported.
    """
    import keras

    module, _, name = path.rpartition(".")
    modules = [importlib.import_module(each) for each in ([module] if module else _MODULES)]
    found = next((getattr(each, name) for each in modules if hasattr(each, name)), None)
    if not (isinstance(found, type) and issubclass(found, keras.callbacks.Callback)):
        known = [each for one in modules for each in dir(one) if not each.startswith("_")]
        places = " or ".join(each.__name__ for each in modules)
        raise ValueError(
            f"`{_FLAG}` must be a subclass of keras.callbacks.Callback in {places}"
            f"{checks.did_you_mean(name, known)}. Received: {path}"
        )
    parameters = inspect.signature(found).parameters.values()
    taken = {each.name: each.default for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD}
    # Keras's own ignore what is left over.
    takes_any = module not in ("", *_MODULES) and any(each.kind is each.VAR_KEYWORD for each in parameters)
    for argument, value in arguments.items():
        if argument not in taken and not takes_any:
            raise ValueError(
                f"The arguments of {path} must be among `{_FLAG}.{f'`, `{_FLAG}.'.join(taken)}`"
                f"{checks.did_you_mean(argument, taken)}. Received: {_FLAG}.{argument}"
            )
        is_own = not found.__module__.startswith(("keras.", "tfvae."))
        if (expected := _expected(argument, taken.get(argument), is_own=is_own)) and not expected[1](value):
            raise ValueError(f"`{_FLAG}.{argument}` of {path} must be {expected[0]}. Received: {value!r}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


_Check = tuple[str, Callable[[Any], bool]]
# What arguments of Keras's callbacks must be where their defaults do not say it, and the check of it.
_VALUES: dict[str, _Check] = {
    "mode": ("auto, min or max", lambda value: value in ("auto", "min", "max")),
    "save_freq": ("epoch or a positive integer", lambda value: value == "epoch" or _is_count(value)),
    "update_freq": (
        "batch, epoch or a positive integer",
        lambda value: value in ("batch", "epoch") or _is_count(value),
    ),
    "profile_batch": ("an integer, or two such as 2,5", lambda value: isinstance(value, int | str | list)),
    "separator": ("one character", lambda value: isinstance(value, str) and len(value) == 1),
    "baseline": ("a number", lambda value: value is None or _is_number(value)),
    "initial_value_threshold": ("a number", lambda value: value is None or _is_number(value)),
}


def _expected(argument: str, default: Any, *, is_own: bool) -> _Check | None:
    """What an argument must be, as far as this is known, and the check of it.

    Args:
        argument: its name.
        default: its default.
        is_own: whether it is of a callback of the user's own, which may take more.
    """
    if argument in _VALUES and not is_own:
        return _VALUES[argument]
    if _is_number(default):
        return "a number", _is_number
    if isinstance(default, bool | str) and not is_own:
        kind = type(default)
        return "text" if kind is str else "true or false", lambda value: isinstance(value, kind)
    return None


def make(
    chosen: Sequence[tuple[str, dict[str, Any]]],
    folder: Path,
    x: "np.ndarray",
    metrics: Collection[str],
    workers: int = 1,
    *,
    chief: bool = True,
) -> list["keras.callbacks.Callback"]:
    """Makes the callbacks of a run. Where they do not say so, they write to its folder.

    Args:
        chosen: what `check` returned.
        folder: the folder of the run.
        x: held-out examples [N, ...], for `Pictures`.
        metrics: the names of the metrics of the training.
        workers: the number of workers that train together.
        chief: whether this process is the one that writes files.

    Raises:
        ValueError: a callback cannot be made of its arguments, or does not exist.
    """
    from keras.callbacks import TensorBoard

    from tfvae.callbacks import Pictures

    made: list[keras.callbacks.Callback] = []
    types = [resolve(path, arguments) for path, arguments in chosen]
    log_dir = next(
        (arguments.get("log_dir") for kind, (_, arguments) in zip(types, chosen, strict=True) if kind is TensorBoard),
        None,
    )
    log_dir = str(folder / "tensorboard") if log_dir is None else log_dir
    for kind, (path, given) in zip(types, chosen, strict=True):
        arguments = dict(given)
        if kind is TensorBoard:
            arguments["log_dir"] = log_dir
            if not chief:
                continue
        if kind is Pictures:
            if workers > 1:
                raise ValueError(
                    f"`{_FLAG} Pictures` must not be given for several workers, because one alone cannot draw. "
                    f"Received: {workers} workers"
                )
            if not {"folder", "log_dir"} & arguments.keys():
                arguments["folder"] = str(folder / "pictures")
                if TensorBoard in types:
                    arguments["log_dir"] = str(Path(log_dir) / "pictures")
            arguments.setdefault("x", x)
        try:
            made.append(kind(**arguments))
        except Exception as error:  # A class of a user may raise anything.
            raise ValueError(
                f"`{_FLAG}` {path} must be a callback that can be made of its arguments. Received: "
                f"{json.dumps(given, default=str)}: {type(error).__name__}: {error}"
            ) from error
        _check_metrics(made[-1], path, metrics, is_of_keras=kind.__module__.startswith("keras."))
    return made


def _check_metrics(
    callback: "keras.callbacks.Callback", path: str, metrics: Collection[str], *, is_of_keras: bool
) -> None:
    """Checks which metrics a callback watches or writes, and says whether the one it watches is to rise or to fall."""
    monitor = getattr(callback, "monitor", None)
    if is_of_keras and monitor is not None and monitor not in metrics:
        raise ValueError(
            f"`{_FLAG}.monitor` of {path} must be one of {', '.join(sorted(metrics))}"
            f"{checks.did_you_mean(monitor, metrics)}. Received: {monitor}"
        )
    if isinstance(monitor, str) and getattr(callback, "mode", None) == "auto":
        metric = monitor.removeprefix("val_")
        callback.mode = _MODES.get(metric, "auto")
        if is_of_keras and callback.mode == "auto" and metric != "loss":
            raise ValueError(f"`{_FLAG}.mode` of {path} must be max or min for the metric {monitor}. Received: auto")
    if is_of_keras and (filepath := getattr(callback, "filepath", None)) is not None:
        try:
            filepath.format(epoch=1, batch=1, **dict.fromkeys(metrics, 0.0))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"`{_FLAG}.filepath` of {path} must be a path, in which {{epoch}}, {{batch}} and metrics in braces "
                f"are filled in, of {', '.join(sorted(metrics))}. Received: {filepath}"
            ) from error
