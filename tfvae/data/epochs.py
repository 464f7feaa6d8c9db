"""Datasets whose order is a function of a seed and the epoch number, so that training can be resumed exactly.

A shuffled `tf.data` pipeline keeps its random state in memory: in a new process it starts over with its first order.
The datasets made here ask which epoch `fit` is in, so that a resumed epoch has the order of the interrupted one.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# More than two, for machines whose many cores feed a fast accelerator.
_BATCHES_AHEAD = 4

_epoch: int | None = None


def set_epoch(epoch: int | None) -> None:
    """Tells every dataset in this process which epoch it is in. `fit` calls this.

    Args:
        epoch: the epoch, counted from 0; None outside `fit`, where each dataset counts its own passes from 0.
    """
    global _epoch
    _epoch = epoch


def ordered(build: Callable[[tf.Tensor], tf.data.Dataset], *, seed: int | Callable[[], int]) -> tf.data.Dataset:
    """Makes a dataset that is built anew for each pass, from a seed that depends only on `seed` and the epoch number.

    Args:
        build: makes the dataset of one pass from a stateless seed, int32 [2]; its result must not depend on anything
            else that changes.
        seed: the same seed gives the same passes in every process, whatever the global seeds. A function is called
            for the seed at each pass.

    Returns:
        The dataset, of unknown cardinality.
    """
    passes = itertools.count()

    # Counted in Python: a tf.Variable created in a strategy's scope would be mirrored to each replica.
    def numbers() -> np.ndarray:
        index = next(passes) if _epoch is None else _epoch
        return np.array([seed() if callable(seed) else seed, index], np.int32)

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        return build(_seed_of_pass(*tf.unstack(tf.ensure_shape(tf.numpy_function(numbers, [], tf.int32), [2]))))

    return tf.data.Dataset.range(1).flat_map(one_pass)


@contextlib.contextmanager
def regardless_of_global_seed() -> Iterator[None]:
    """Lets the seed of a dataset that is made in the body alone say what it draws.

    tf.data adds to it the seed of the graph that the dataset is made in, which is the global one unless it is set. It
    is set to 1 here, and afterwards to what it was: the graphs of functions that are mapped later take it over.
    """
    graph = tf.compat.v1.get_default_graph()
    given, graph.seed = graph.seed, 1
    try:
        yield
    finally:
        graph.seed = given


def _seed_of_pass(seed: int | tf.Tensor, index: int | tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(tf.stack([seed, 0]), index)


def order(num_examples: int, seed: int, index: int) -> tf.Tensor:
    """The row numbers int32 [N] in the order of one pass of `shuffled_batches`.

    Args:
        num_examples: N.
        seed: the `seed` of `shuffled_batches`.
        index: the number of the pass, from 0.
    """
    return _shuffled(num_examples, _seed_of_pass(seed, index))


def _shuffled(num_examples: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(tf.range(num_examples), seed)


def shuffled_batches(num_examples: int, batch_size: int, *, seed: int | Callable[[], int]) -> tf.data.Dataset:
    """Makes batches of row numbers, in a new order at each pass.

    Args:
        num_examples: N, the number of rows.
        batch_size: B; the last batch of a pass may be smaller.
        seed: see `ordered`.

    Returns:
        A dataset of pairs: the row numbers int32 [B] of a batch, and a stateless seed int32 [2] for its noise.
    """
    num_batches = -(-num_examples // batch_size)

    # Slicing one permutation per pass is twice as fast as Dataset.shuffle, which moves one row number at a time.
    def build(seed: tf.Tensor) -> tf.data.Dataset:
        permutation = _shuffled(num_examples, seed)
        return tf.data.Dataset.range(num_batches).map(
            lambda i: (permutation[i * batch_size : (i + 1) * batch_size], tf.random.fold_in(seed, i))
        )

    return ordered(build, seed=seed).apply(tf.data.experimental.assert_cardinality(num_batches))


def read_ahead(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Maps a function over a dataset of in-memory data, computing a few batches ahead of the model.

    How many is fixed rather than autotuned: TensorFlow's tuning occupies a core for a third of a second in each pass,
    and the end of the pass waits for it.

    Args:
        dataset: a dataset of row numbers or of rows.
        function: maps an element of `dataset` to a batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.map(function, num_parallel_calls=_BATCHES_AHEAD).prefetch(_BATCHES_AHEAD).with_options(options)
