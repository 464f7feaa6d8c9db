"""Data in an order that follows from a seed and from the number of the epoch.

A pipeline that draws its order from a state of its own starts with its first order again when a training is resumed in
a new process. The ones that are made here ask which epoch `fit` is in, so that a resumed epoch is the one that was cut.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# More than two, for machines with many cores beside a fast accelerator.
_BATCHES_AHEAD = 4

_epoch: int | None = None


def set_epoch(epoch: int | None) -> None:
    """Says which epoch every pipeline of this process is in; `fit` calls it.

    Args:
        epoch: the epoch, from 0; None where there is none, so that each pipeline counts its passes, from 0 too.
    """
    global _epoch
    _epoch = epoch


def ordered(build: Callable[[tf.Tensor], tf.data.Dataset], *, seed: int | Callable[[], int]) -> tf.data.Dataset:
    """Makes a dataset whose passes differ, each as its number says.

    Args:
        build: makes the dataset of one pass from a stateless seed, int32 [2]; it must depend on nothing else that
            changes.
        seed: the same seed gives the same passes in every process, whatever the global seeds. A function is asked for
            it at each pass.

    Returns:
        The dataset, of unknown cardinality.
    """
    passes = itertools.count()

    # From Python, because a variable that is made in a strategy's scope would be one for each replica.
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
        seed: that of the passes.
        index: the number of the pass.
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
        A dataset of row numbers int32 [B], each with a stateless seed int32 [2] for the noise of its batch.
    """
    num_batches = -(-num_examples // batch_size)

    # One permutation a pass and slices of it: twice as fast as Dataset.shuffle, which moves single row numbers.
    def build(seed: tf.Tensor) -> tf.data.Dataset:
        permutation = _shuffled(num_examples, seed)
        return tf.data.Dataset.range(num_batches).map(
            lambda i: (permutation[i * batch_size : (i + 1) * batch_size], tf.random.fold_in(seed, i))
        )

    return ordered(build, seed=seed).apply(tf.data.experimental.assert_cardinality(num_batches))


def read_ahead(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Maps a dataset of what is in memory, some batches ahead of the model.

    How many is not left to TensorFlow, whose search for it takes a core for a third of a second in each pass, and lets
    the end of a pass wait for that.

    Args:
        dataset: row numbers, or rows.
        function: makes a batch of an element.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.map(function, num_parallel_calls=_BATCHES_AHEAD).prefetch(_BATCHES_AHEAD).with_options(options)
