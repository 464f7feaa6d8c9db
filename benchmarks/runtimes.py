"""The runtimes that can run a trained model, each wrapped as functions from NumPy arrays to NumPy arrays."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from exported import TFLITE_FILES, torch_modules

OPERATIONS = {"encode": ("loc", "scale"), "reconstruct": ("mean",)}
THREADS = (1, 2)
# Calls before each timed turn, in seconds: threads of the runtime that had the turn before may still be spinning.
_WARM_UP_SECONDS = 0.05

_Function = Callable[[np.ndarray], Any]


class Runtime(NamedTuple):
    """One way to run a model.

    Attributes:
        name: the runtime, or the interface of it that is used.
        model: the file that it reads, or how it compiles the model.
        threads: how many threads it is told to use; None leaves the choice to the runtime.
        open: given the folder that `exported` wrote and a name of `ARCHITECTURES`, makes a function for each name of
            `OPERATIONS`.
        packages: the packages that must be installed.
        batches: the batch sizes that it accepts; None for any.
        is_exact: whether it computes in float32.
        channels_first: whether its images are [channels, height, width].
    """

    name: str
    model: str
    threads: int | None
    open: Callable[[Path, str], dict[str, _Function]]
    packages: tuple[str, ...] = ()
    batches: tuple[int, ...] | None = None
    is_exact: bool = True
    channels_first: bool = False

    @property
    def label(self) -> str:
        """The name of the runtime in a table."""
        return ", ".join(part for part in (self.name, self.model) if part)


class Timed:
    """A runtime opened in this process, to be checked and timed.

    Args:
        runtime: the runtime.
        folder: the folder that `exported` wrote.
        shape: a name of `ARCHITECTURES`.
    """

    def __init__(self, runtime: Runtime, folder: Path, shape: str) -> None:
        self._functions = runtime.open(folder, shape)
        self._moved = runtime.channels_first
        with np.load(folder / "questions.npz") as arrays:
            self._arrays = dict(arrays)

    def difference(self, operation: str, batch: int) -> float:
        """The largest difference from Keras's answers.

        Args:
            operation: a name of `OPERATIONS`.
            batch: the number of examples.
        """
        names = OPERATIONS[operation]
        answers = self._functions[operation](self._question(batch))
        if isinstance(answers, dict):
            answers = [answers[name] for name in names]
        elif len(names) == 1 and isinstance(answers, np.ndarray):
            answers = [answers]
        if self._moved:
            answers = [np.moveaxis(answer, 1, -1) if answer.ndim == 4 else answer for answer in answers]
        expected = [self._arrays[name][:batch] for name in names]
        return max(float(np.abs(given - wanted).max()) for given, wanted in zip(answers, expected, strict=True))

    def times(self, operation: str, batch: int, seconds: float) -> list[int]:
        """Calls an operation repeatedly, and returns the nanoseconds of each call.

        Args:
            operation: a name of `OPERATIONS`.
            batch: the number of examples in a call.
            seconds: how long to continue.
        """
        function, x = self._functions[operation], self._question(batch)
        _call_for(_WARM_UP_SECONDS, function, x)
        return _call_for(seconds, function, x)

    def _question(self, batch: int) -> np.ndarray:
        x = self._arrays["x"][:batch]
        return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if self._moved and x.ndim == 4 else x


def _call_for(seconds: float, function: _Function, x: np.ndarray) -> list[int]:
    """The nanoseconds of each call, for calls that begin within this many seconds."""
    times = []
    now = time.perf_counter_ns()
    end = now + int(1e9 * seconds)
    while now < end:
        before = now
        function(x)
        now = time.perf_counter_ns()
        times.append(now - before)
    return times


def keras_predict(folder: Path, shape: str) -> dict[str, _Function]:
    """`predict` of the Keras model, and of a Keras model of its encoder and posterior."""
    model = _keras_model(folder)
    import keras

    encode = keras.Model(model.encoder.inputs, model.posterior(model.encoder.output))
    return {
        "encode": functools.partial(encode.predict, verbose=0),
        "reconstruct": functools.partial(model.predict, verbose=0),
    }


def methods(folder: Path, shape: str) -> dict[str, _Function]:
    """The methods of `tfvae.VAE`."""
    model = _keras_model(folder)
    return {"encode": model.encode, "reconstruct": model.reconstruct}


def saved_model(folder: Path, shape: str) -> dict[str, _Function]:
    """The signatures of the SavedModel in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "served" / "1"))

    def function(name: str) -> _Function:
        # The function refers to `loaded`, so that the variables live as long as the function.
        signature = loaded.signatures[name]
        return lambda x: {name: value.numpy() for name, value in signature(x=tf.constant(x)).items()}

    return {name: function(name) for name in OPERATIONS}


def client(folder: Path, shape: str, file: str, threads: int | None = None) -> dict[str, _Function]:
    """`tfvae.export.load`."""
    from tfvae import export

    model = export.load(folder / file, num_threads=threads)
    return {"encode": model.encode, "reconstruct": model.reconstruct}


def signature_runner(folder: Path, shape: str, file: str, threads: int) -> dict[str, _Function]:
    """The signature runners of LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / file), num_threads=threads)
    runners = {name: interpreter.get_signature_runner(name) for name in OPERATIONS}
    return {name: functools.partial(lambda runner, x: runner(x=x), runner) for name, runner in runners.items()}


def onnx_runtime(folder: Path, shape: str, threads: int) -> dict[str, _Function]:
    """`InferenceSession.run` of ONNX Runtime."""
    return {
        name: functools.partial(lambda session, x: session.run(None, {"x": x}), _onnx_session(folder, name, threads))
        for name in OPERATIONS
    }


def bound_onnx_runtime(folder: Path, shape: str, threads: int) -> dict[str, _Function]:
    """ONNX Runtime with preallocated output arrays for the current batch size, which every call overwrites."""

    def function(name: str) -> _Function:
        session, outputs = _onnx_session(folder, name, threads), {}
        binding = session.io_binding()

        def call(x: np.ndarray) -> list[np.ndarray]:
            binding.bind_cpu_input("x", x)
            if len(x) not in outputs:
                outputs.clear()
                outputs[len(x)] = session.run(None, {"x": x})
                for output, array in zip(session.get_outputs(), outputs[len(x)], strict=True):
                    binding.bind_output(output.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            session.run_with_iobinding(binding)
            return outputs[len(x)]

        return call

    return {name: function(name) for name in OPERATIONS}


def torch_eager(folder: Path, shape: str, threads: int) -> dict[str, _Function]:
    """PyTorch modules, run eagerly."""
    return _torch(torch_modules(shape), threads)


def torch_compiled(folder: Path, shape: str, threads: int, freezing: bool) -> dict[str, _Function]:
    """PyTorch modules compiled for each batch size; `freezing` makes their weights constants of the graph."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = freezing
    compiled = {name: torch.compile(module, dynamic=False) for name, module in torch_modules(shape).items()}
    return _torch(compiled, threads)


def _keras_model(folder: Path) -> Any:
    import keras

    import tfvae

    # `tfvae` is lazy: using a name imports the class, so that Keras can load it.
    assert tfvae.VAE
    return keras.saving.load_model(folder / "model.keras")


def _onnx_session(folder: Path, name: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])


def _torch(modules: dict[str, Any], threads: int) -> dict[str, _Function]:
    import torch

    torch.set_num_threads(threads)

    def function(module: Any) -> _Function:
        def call(x: np.ndarray) -> list[np.ndarray]:
            with torch.inference_mode():
                outputs = module(torch.from_numpy(x))
            return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

        return call

    return {name: function(module) for name, module in modules.items()}


def _of_litert(name: str, open_file: Callable[..., dict[str, _Function]], file: str, threads: int) -> Runtime:
    return Runtime(
        name,
        file,
        threads,
        functools.partial(open_file, file=f"{file}.tflite", threads=threads),
        batches=(TFLITE_FILES[file]["batch_size"],) if "batch_size" in TFLITE_FILES[file] else None,
        is_exact="quantize" not in TFLITE_FILES[file],
    )


# The latencies of the others are divided by those of this runtime with as many threads.
REFERENCE = "ONNX Runtime"
RUNTIMES = [
    Runtime("Keras predict", "", None, keras_predict),
    Runtime("tfvae.VAE", "", None, methods),
    Runtime("TensorFlow", "SavedModel", None, saved_model),
    Runtime("tfvae.export.load", "SavedModel", None, functools.partial(client, file="served")),
    *(
        _of_litert(name, open_file, file, threads)
        for file in TFLITE_FILES
        for name, open_file in (("LiteRT", signature_runner), ("tfvae.export.load", client))
        for threads in THREADS
    ),
    *(
        Runtime(name, model, threads, functools.partial(open_peer, threads=threads), packages, channels_first=True)
        for name, model, open_peer, packages in (
            (REFERENCE, "", onnx_runtime, ("onnxruntime", "torch")),
            (REFERENCE, "bound arrays", bound_onnx_runtime, ("onnxruntime", "torch")),
            ("PyTorch", "eager", torch_eager, ("torch",)),
            ("PyTorch", "compiled", functools.partial(torch_compiled, freezing=False), ("torch",)),
            ("PyTorch", "compiled, frozen", functools.partial(torch_compiled, freezing=True), ("torch",)),
        )
        for threads in THREADS
    ),
]
