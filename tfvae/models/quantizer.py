"""Vector quantisation: the nearest vectors of codebooks, at several levels and in groups, and how codebooks learn."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfvae.distribute import replicas


class Quantized(NamedTuple):
    """Vectors [B, P, E] at P positions, quantised by Q codebooks, each for E / G of the dimensions.

    Attributes:
        codes: the index that each codebook gives, int32 [B, P, Q].
        vectors: the sum of what they stand for [B, P, E]; no gradient passes to what was quantised.
        inputs: what each codebook was given [B, P, Q, E / G]: the vectors, less what the levels before stand for.
        distance: how far all codes are from what they were given, the sum of squares [B], with a gradient to the codes.
        commitment: the same with a gradient to the vectors.
    """

    codes: tf.Tensor
    vectors: tf.Tensor
    inputs: tf.Tensor
    distance: tf.Tensor
    commitment: tf.Tensor


class Quantizer(NamedTuple):
    """How vectors are quantised.

    The dimensions are divided into groups. In each, the first level takes the nearest code, and each level after it
    the one nearest to what the levels before leave. Codebook q is that of the level q // G and the group q % G.

    Attributes:
        num_codes: K, the number of codes of a codebook.
        num_levels: the number of levels.
        num_groups: G.
        is_shared: whether all levels share the codebook of a group.
    """

    num_codes: int
    num_levels: int
    num_groups: int
    is_shared: bool

    @property
    def num_books(self) -> int:
        """Q, the number of codes at a position."""
        return self.num_levels * self.num_groups

    @property
    def num_tables(self) -> int:
        """The number of codebooks that differ."""
        return self.num_groups if self.is_shared else self.num_books

    def tables(self, codebook: tf.Tensor) -> list[tf.Tensor]:
        """The codes [K, E / G] of each of the Q codebooks.

        Args:
            codebook: those of all that differ, one below the other, [K tables, E / G].
        """
        split = tf.split(codebook, self.num_tables) if self.num_tables > 1 else [codebook]
        return [split[book % self.num_tables] for book in range(self.num_books)]

    def quantize(self, vectors: tf.Tensor, codebook: tf.Tensor) -> Quantized:
        """Takes the codes nearest to vectors.

        Args:
            vectors: [B, P, E].
            codebook: see `tables`.
        """
        positions, width = vectors.shape[1:]
        flat = tf.reshape(vectors, [-1, width])
        left = tf.split(flat, self.num_groups, axis=1) if self.num_groups > 1 else [flat]
        chosen: list[list[tf.Tensor]] = [[] for _ in left]
        codes, inputs, distances, commitments = [], [], [], []
        for book, table in enumerate(self.tables(codebook)):
            group = book % self.num_groups
            given = left[group]
            code = tf.argmin(squared_distances(given, table), axis=1, output_type=tf.int32)
            found = looked_up(code, table)
            distances.append((tf.stop_gradient(given) - found) ** 2)
            commitments.append((given - tf.stop_gradient(found)) ** 2)
            codes.append(code)
            inputs.append(given)
            chosen[group].append(found)
            left[group] = given - tf.stop_gradient(found)
        total = tf.concat([sum(each[1:], each[0]) for each in chosen], axis=1)
        size = width // self.num_groups
        return Quantized(
            tf.reshape(tf.stack(codes, axis=1), [-1, positions, self.num_books]),
            tf.reshape(total, [-1, positions, width]),
            tf.reshape(tf.stack(inputs, axis=1), [-1, positions, self.num_books, size]),
            *(
                tf.reduce_sum(tf.reshape(sum(each[1:], each[0]), [-1, positions * size]), axis=1)
                for each in (distances, commitments)
            ),
        )

    def look_up(self, codes: tf.Tensor, codebook: tf.Tensor) -> tf.Tensor:
        """The vectors [B, P, E] that codes [B, P, Q] stand for.

        Args:
            codes: int32; one that is no code stands for zeros.
            codebook: see `tables`.
        """
        flat = tf.reshape(codes, [-1, self.num_books])
        found = [looked_up(flat[:, book], table) for book, table in enumerate(self.tables(codebook))]
        groups = [found[group :: self.num_groups] for group in range(self.num_groups)]
        total = tf.concat([sum(each[1:], each[0]) for each in groups], axis=1)
        return tf.reshape(total, [-1, codes.shape[1], total.shape[1]])

    def by_table(self, of_books: tf.Tensor) -> tf.Tensor:
        """Arranges values of the Q codebooks by those that differ.

        Args:
            of_books: [B, P, Q, ...].

        Returns:
            For each, the values that it has in an example [tables, B, P levels, ...].
        """
        shape, number = of_books.shape[3:], self.num_books // self.num_tables
        split = tf.reshape(of_books, [-1, of_books.shape[1] * number, self.num_tables, *shape])
        return tf.transpose(split, [2, 0, 1, *range(3, 3 + len(shape))])


class Averages(NamedTuple):
    """Moving averages from which codebooks are computed.

    Attributes:
        codes: the codes [tables, K, D]: the mean of what each was nearest to.
        frequencies: how often each is the nearest [tables, K]; all add up to less than 1 in the first steps.
    """

    codes: tf.Tensor
    frequencies: tf.Tensor

    def after(self, codes: tf.Tensor, inputs: tf.Tensor, weights: tf.Tensor, decay: float) -> "Averages":
        """The averages after a batch, the same on all replicas.

        m_k <- decay m_k + (1 - decay) sum of the inputs nearest to k,  N_k <- decay N_k + (1 - decay) their number,
        e_k = m_k / N_k,

        of which e_k and N_k are kept, so that a code that is never the nearest stays where it is. Sums and numbers are
        divided by those of the batch, which makes N_k independent of its size.

        Args:
            codes: the codes in this replica's part of the batch [tables, B, R].
            inputs: what they were nearest to [tables, B, R, D].
            weights: the weights of the examples [B].
            decay: how much of the averages is kept.

        Reference: van den Oord et al. 2017, appendix A.1, equations 6 to 8.
        """
        tables, number, size = self.codes.shape
        weighted = tf.one_hot(codes, number) * weights[:, tf.newaxis, tf.newaxis]
        weighted = tf.reshape(weighted, [tables, -1, number])
        sums = tf.matmul(weighted, tf.reshape(inputs, [tables, -1, size]), transpose_a=True)
        counts, sums = replicas.total(tf.reduce_sum(weighted, axis=1)), replicas.total(sums)
        of_batch = tf.reduce_sum(counts, axis=1, keepdims=True)
        share, sums = counts / tf.maximum(of_batch, 1e-30), sums / tf.maximum(of_batch, 1e-30)[..., tf.newaxis]
        frequencies = decay * self.frequencies + (1 - decay) * share
        move = (1 - decay) * (sums - share[..., tf.newaxis] * self.codes)
        moved = self.codes + tf.math.divide_no_nan(move, frequencies[..., tf.newaxis])
        return Averages(moved, tf.where(of_batch > 0, frequencies, self.frequencies))

    def restarted(self, inputs: tf.Tensor, weights: tf.Tensor, below: float, seed: tf.Tensor) -> "Averages":
        """The averages with each code that is hardly ever the nearest at a random input of the batch.

        Args:
            inputs: as for `after`.
            weights: as for `after`.
            below: the frequency below which a code is moved, relative to that of codes that are used equally often.
            seed: a stateless seed, the same on all replicas.

        Reference: Dhariwal et al. 2020, Jukebox: A Generative Model for Music, section 3.2.
        """
        tables, number, _ = self.codes.shape
        equal = tf.reduce_sum(self.frequencies, axis=1, keepdims=True) / number
        # An example of the whole batch, with a probability proportional to its weight, and one of its inputs.
        ends = tf.cumsum(weights)
        totals = replicas.total(tf.one_hot(replicas.index(), replicas.count()) * ends[-1])
        start = tf.gather(tf.cumsum(totals, exclusive=True), replicas.index())
        all_weights = tf.reduce_sum(totals)
        of_example, of_input = tf.unstack(tf.random.stateless_uniform([2, tables, number], seed))
        place = of_example * all_weights - start
        is_here = (place >= 0) & (place < ends[-1])
        example = tf.searchsorted(ends, tf.reshape(place, [-1]), side="right")
        example = tf.minimum(tf.reshape(example, [tables, number]), tf.shape(weights)[0] - 1)
        choices = inputs.shape[2]
        which = tf.minimum(tf.cast(of_input * choices, tf.int32), choices - 1)
        table = tf.tile(tf.range(tables)[:, tf.newaxis], [1, number])
        found = tf.gather_nd(inputs, tf.stack([table, example, which], axis=-1))
        found = replicas.total(tf.where(is_here[..., tf.newaxis], found, 0.0))
        is_dead = (self.frequencies < below * equal) & (all_weights > 0)
        return Averages(
            tf.where(is_dead[..., tf.newaxis], found, self.codes), tf.where(is_dead, equal, self.frequencies)
        )


def squared_distances(vectors: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """The squared distances [N, K] of vectors [N, D] from codes [K, D], each row less the vector's squared norm."""
    return tf.reduce_sum(table**2, axis=1) - 2 * tf.matmul(vectors, table, transpose_b=True)


def looked_up(codes: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """The rows of a table [K, D] with the given numbers [N]; zeros for a number that is none."""
    # Not `tf.gather`, because its gradient is sparse, and replicas sum only dense gradients.
    return tf.matmul(tf.one_hot(codes, table.shape[0]), table)


class Perplexity(keras.metrics.Metric):
    """The exponential of the entropy of the code frequencies; of several codebooks, of the mean of their entropies.

    Args:
        name: the name of the metric.
        shape: the number of codebooks Q, and that of their codes K.
        books: which of the codebooks count.
    """

    def __init__(self, name: str, shape: Sequence[int], books: slice = slice(None)) -> None:
        super().__init__(name=name)
        self._books = books
        self.counts = self.add_variable(shape=tuple(shape), initializer="zeros", name="counts")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds the counts [B, Q, K] of each code of each codebook in each example."""
        if sample_weight is not None:
            values *= tf.cast(sample_weight, tf.float32)[:, tf.newaxis, tf.newaxis]
        self.counts.assign_add(tf.reduce_sum(values, axis=0))

    def result(self) -> tf.Tensor:
        """The perplexity, from 1 to K; 1 if no example has a weight."""
        counts = tf.convert_to_tensor(self.counts)[self._books]
        frequencies = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, axis=1, keepdims=True))
        return tf.exp(-tf.reduce_mean(tf.reduce_sum(tf.math.xlogy(frequencies, frequencies), axis=1)))
