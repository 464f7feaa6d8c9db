"""The importance weights of draws of z for each example, computed in chunks of bounded memory.

If there are many draws to evaluate, XLA compiles a loop over them. Each round of the loop makes so few draws that they
stay in the processor's cache, and the encoder is evaluated only once.
"""

import collections
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import chunks, graphs, private_apis, seeds
from tfvae.models.variational_model import VariationalModel
from tfvae.training import loop
from tfvae.training.plan import LayerTraits

# Without XLA: the most elements (16 MB) and rows of the decoder's output in a chunk. Large enough for fast matrix
# products, small enough for the cache, and independent of the number of samples.
_CHUNK_ELEMENTS = 2**22
_CHUNK_ROWS = 2**16
# With XLA: the same limits for one round of the loop, and the most rounds in a chunk.
_ROUND_ELEMENTS = 2**20
_ROUND_ROWS = 2**10
_ROUNDS = 64
# The number of chunks that XLA computes at a time: while one waits for its last thread, the other uses the free cores.
_CHUNKS_AT_A_TIME = 2
# XLA is used if an example takes at least this many operations: the second that compiling takes is then regained within
# a few hundred examples.
_OPERATIONS_BY_XLA = 2e9


def in_chunks(
    model: VariationalModel, batches: Iterable[Any], num_samples: int, seed: tf.Tensor
) -> Iterator[Iterator[np.ndarray]]:
    """The log importance weights of each batch, in chunks [K', B].

    Args:
        model: an `Autoencoder`, whose method `_draw_log_weights` is used.
        batches: tensors float32 [B, ...], or dictionaries of such tensors.
        num_samples: K, the number of draws for each example.
        seed: a stateless seed.
    """
    by_xla, shape = _is_for_xla(model, num_samples), None
    for batch, batch_seed in seeds.for_each(batches, seed):
        # The same sizes for all batches, because each number of draws is traced as a graph of its own.
        shape = shape or _shapes(model, batch)
        if by_xla:
            try:
                yield _by_xla(model, batch, num_samples, batch_seed, shape[1])
                continue
            except loop.CANNOT_COMPILE as error:
                if model.jit_compile:
                    raise
                warnings.warn(f"XLA cannot compile the log-likelihood, so it runs without XLA: {error}", stacklevel=2)
                by_xla = False
        yield _without_xla(model, batch, num_samples, batch_seed, shape[0])


def _is_for_xla(model: VariationalModel, num_samples: int) -> bool:
    """Whether XLA's loop computes the weights.

    This depends only on the model and K, so that the draws for a seed do not depend on the number of examples.
    """
    layers = LayerTraits.of(private_apis.layers_of(model))
    operations = layers.operations * model._rows_per_example * num_samples
    may_compile = not model.run_eagerly and (private_apis.leaves_jit_compile_open(model) or model.jit_compile)
    is_plain = may_compile and private_apis.strategy_of(model) is None
    return is_plain and operations >= _OPERATIONS_BY_XLA and layers.are_fast_by_xla


def _shapes(model: VariationalModel, batch: Any) -> tuple[int, int]:
    """The number of draws in a chunk without XLA, and in one round of XLA's loop."""
    rows = len(tf.nest.flatten(batch)[0]) * model._rows_per_example
    # Not of the event shape, because sequences may have any number of steps.
    x = batch["x"] if isinstance(batch, dict) else batch
    elements = rows * math.prod(model.likelihood.parameter_shape(tuple(x.shape[1:])))
    chunk = min(chunks.rows_within(_CHUNK_ELEMENTS, elements), chunks.rows_within(_CHUNK_ROWS, rows))
    return chunk, min(chunks.rows_within(_ROUND_ELEMENTS, elements), chunks.rows_within(_ROUND_ROWS, rows))


def _without_xla(
    model: VariationalModel, batch: Any, num_samples: int, seed: tf.Tensor, chunk: int
) -> Iterator[np.ndarray]:
    for draws, chunk_seed in seeds.for_draws(num_samples, chunk, seed):
        yield model._run(model._draw_log_weights, batch, chunk_seed, num_samples=draws).numpy()


def _by_xla(model: VariationalModel, batch: Any, num_samples: int, seed: tf.Tensor, draws: int) -> Iterator[np.ndarray]:
    """The chunks [K', B], computed by one program, with equally many rounds in each; surplus draws are dropped."""
    key = "_by_xla", draws
    if key not in model._functions:

        def rounds(batch: Any, seeds: tf.Tensor) -> tf.Tensor:
            def one(seed: tf.Tensor) -> tf.Tensor:
                return model._draw_log_weights(batch, seed, num_samples=draws)

            return tf.map_fn(one, seeds, fn_output_signature=tf.float32)

        model._functions[key] = graphs.graph(rounds, jit_compile=True)
    function, number = model._functions[key], -(-num_samples // draws)
    count = min(number, _CHUNKS_AT_A_TIME * -(-number // (_CHUNKS_AT_A_TIME * _ROUNDS)))
    size = -(-number // count)
    # Because the size is rounded up, the last of many chunks could otherwise be empty.
    count = -(-number // size)
    chunk_seeds = tf.split(tf.random.experimental.stateless_split(seed, count * size), count)
    # Traced in this thread, because Keras keeps some of its state per thread.
    function.get_concrete_function(batch, chunk_seeds[0])
    outputs = _side_by_side(functools.partial(function, batch), chunk_seeds)
    # Computed at once, so that a failure to compile is raised here, where the caller handles it.
    first = next(outputs)
    return _flat(itertools.chain([first], outputs), num_samples)


def _side_by_side(function: Callable[[tf.Tensor], tf.Tensor], arguments: Iterable[tf.Tensor]) -> Iterator[tf.Tensor]:
    """The outputs of a function for each argument, in order; the next ones are computed while one is consumed."""
    arguments = iter(arguments)
    with futures.ThreadPoolExecutor(_CHUNKS_AT_A_TIME) as pool:
        running = collections.deque(
            pool.submit(function, each) for each in itertools.islice(arguments, _CHUNKS_AT_A_TIME)
        )
        while running:
            output = running.popleft().result()
            running.extend(pool.submit(function, each) for each in itertools.islice(arguments, 1))
            yield output


def _flat(outputs: Iterable[tf.Tensor], num_samples: int) -> Iterator[np.ndarray]:
    """Reshapes outputs [rounds, draws, B] to chunks [K', B], and drops the draws after the first K."""
    for output in outputs:
        chunk = output.numpy().reshape(-1, output.shape[-1])[:num_samples]
        num_samples -= len(chunk)
        yield chunk
