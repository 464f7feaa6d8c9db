"""The log densities of one model given each of many data sets, evaluated together by one program.

The search for a Gaussian near a posterior is written for one density. Here one search for each data set runs in a
thread of its own, as it is. Each stops where it asks for values of its density, and once all have stopped, the values
for all of them are computed at once.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfvae import chunks
from tfvae.inference.density import Density, differentiate
from tfvae.inference.joint_density import JointDensity

_Result = TypeVar("_Result")

# The number of points of one data set that the values are computed for together; others are filled up.
_POINTS = 64
# The most points times elements of the data that are evaluated at a time.
_CHUNK_ELEMENTS = 2**22


class ManyDensities:
    """The log joint density of unconstrained vectors z, given any of K data sets.

    Args:
        joint: the joint density.
        data: the K data sets, structures of tensors of the same shapes with a leading axis [K].

    Attributes:
        data: the argument, which may be replaced by others of the same shapes, but for K.

    Raises:
        ValueError: TensorFlow cannot vectorise an operation of the density.
    """

    def __init__(self, joint: JointDensity, data: Any) -> None:
        self.data = data
        self.dim, self.dtype = joint.target.space.dim, joint.dtype
        # One row for each column of a Hessian.
        rows = max(self.dim, 4)
        self._points = {"values": _POINTS, "derivatives": rows}
        self._lock = threading.Lock()
        self._requests: list[_Request] = []
        self._running = 0

        def density(z: tf.Tensor, rows: Any) -> tf.Tensor:
            log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=None)
            return log_prior + log_likelihood

        def values(arguments: Any) -> tuple[tf.Tensor]:
            (z,), rows = arguments
            return (density(z, rows),)

        def derivatives(arguments: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            (z, directions), rows = arguments
            return differentiate(lambda z: density(z, rows), z, directions)

        def program(name: str, function: Callable[..., Any], num_arrays: int) -> Any:
            def of_many(arrays: list[tf.Tensor], data: Any, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
                own = tf.nest.map_structure(lambda part: tf.gather(part, index), data)
                return tf.vectorized_map(function, (arrays, own), fallback_to_while_loop=False)

            spec = tf.TensorSpec([None, self._points[name], self.dim], self.dtype)
            signature = [num_arrays * [spec], specs_of(data), tf.TensorSpec([None], tf.int32)]
            graph = tf.function(of_many, input_signature=signature, autograph=False)
            # Traced now, because that may raise an error.
            graph.get_concrete_function()
            return graph

        self._programs = {"values": program("values", values, 1), "derivatives": program("derivatives", derivatives, 2)}

    def of(self, index: int) -> "_DensityOfOne":
        """The log density given one of the data sets."""
        return _DensityOfOne(self, index)

    def search(self, function: Callable[["_DensityOfOne"], _Result]) -> list[_Result | Exception]:
        """Calls a function of the density for each of the data sets, all at the same time.

        Args:
            function: a function of one density.

        Returns:
            What it returned, or the error that it raised, for each data set.
        """
        count = len(tf.nest.flatten(self.data)[0])
        results: list[Any] = [None] * count

        def run(index: int) -> None:
            try:
                results[index] = function(self.of(index))
            except Exception as error:
                results[index] = error
            finally:
                with self._lock:
                    self._running -= 1
                    self._answer_if_all_wait()

        self._running = count
        # As daemons, so that an interrupted process does not wait for them.
        threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def ask(self, name: str, index: int, *arrays: np.ndarray) -> list[np.ndarray]:
        """What a program gives for one data set: see `LogDensity`.

        Args:
            name: "values" or "derivatives".
            index: the number of the data set.
            arrays: the points [R, L], and for derivatives the directions [R, L].
        """
        request = _Request(name, index, arrays)
        with self._lock:
            self._requests.append(request)
            self._answer_if_all_wait()
        request.answered.wait()
        if request.error is not None:
            raise request.error
        return request.results

    def _answer_if_all_wait(self) -> None:
        # Outside of `search` there is one request at a time, and nothing is running.
        if not self._requests or len(self._requests) < self._running:
            return
        requests, self._requests = self._requests, []
        for name in self._programs:
            same = [request for request in requests if request.name == name]
            if not same:
                continue
            try:
                self._answer(name, same)
            except Exception as error:
                # Each search raises it.
                for request in same:
                    request.error = error
        for request in requests:
            request.answered.set()

    def _answer(self, name: str, requests: Sequence["_Request"]) -> None:
        size = self._points[name]
        parts = [[_filled_up(array, size) for array in request.arrays] for request in requests]
        arrays = [np.concatenate(each) for each in zip(*parts, strict=True)]
        counts = [len(part[0]) for part in parts]
        index = np.repeat([request.index for request in requests], counts).astype(np.int32)
        elements = sum(int(np.prod(part.shape[1:])) for part in tf.nest.flatten(self.data))
        outputs = []
        for part in chunks.slices(len(index), chunks.rows_within(_CHUNK_ELEMENTS, size * elements)):
            given = [tf.constant(array[part], self.dtype) for array in arrays]
            program = self._programs[name]
            found = program(given, self.data, tf.constant(index[part]))
            outputs.append([each.numpy().astype(float) for each in found])
        joined = [np.concatenate(each) for each in zip(*outputs, strict=True)]
        ends = np.cumsum(counts)
        for request, start, end in zip(requests, ends - counts, ends, strict=True):
            rows = len(request.arrays[0])
            request.results = [each[start:end].reshape([-1, *each.shape[2:]])[:rows] for each in joined]


def specs_of(data: Any) -> Any:
    """The specifications of a structure of tensors whose first axis may have any length."""
    return tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), data)


class _Request:
    """What one search asks for, and what it gets."""

    def __init__(self, name: str, index: int, arrays: tuple[np.ndarray, ...]) -> None:
        self.name, self.index, self.arrays = name, index, arrays
        self.answered = threading.Event()
        self.results: list[np.ndarray] = []
        self.error: Exception | None = None


class _DensityOfOne(Density):
    """The log density given one of the data sets: see `LogDensity`."""

    def __init__(self, densities: ManyDensities, index: int) -> None:
        self._densities = densities
        self.index = index
        self.dim, self.dtype = densities.dim, densities.dtype
        self.epsilon = float(np.finfo(self.dtype.as_numpy_dtype).eps)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        return self._densities.ask("values", self.index, np.asarray(z, float))[0]

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self._densities.ask("derivatives", self.index, np.asarray(z, float), np.asarray(directions, float))
        return found[0], found[1], found[2]


def _filled_up(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows [R, L] as blocks of a size, [C, size, L], of which the last is filled up with the last row."""
    missing = -len(rows) % size
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]).reshape(-1, size, rows.shape[1])
