"""The learned prior of codes: an autoregressive Transformer, which draws them one after the other."""

import math
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks

# Added to what a place must not see, before a softmax.
_UNSEEN = -1e9
# The standard deviation of the vectors of codes and places before the training.
_START = 0.1


@keras.saving.register_keras_serializable("tfvae")
class CodePrior(keras.layers.Layer):
    """p(z) of codes, each given those before it: the learned prior of a `tfvae.VQVAE`.

    p(z) = product over d of p(z_d | z_1, ..., z_{d-1})

    The codes are taken position by position, row by row in a picture, and at a position codebook by codebook. The
    network is a Transformer whose steps attend to those before them, with a learned vector for each place. Before it is
    trained it is the uniform distribution.

    `tfvae.VQVAE.fit_prior` trains it, after which `fit` of the model leaves it as it is.

    Args:
        width: the number of features of each step, a multiple of `num_heads`.
        num_heads: the number of heads of each attention.
        num_blocks: the number of blocks, each of an attention and two dense layers, the first four times as wide.
        dropout: the share of the features that each block leaves out in training, from 0 to below 1.
        num_codes: K; None means that of the model.
        num_books: Q, the number of codes at each position; None means that of the model.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: van den Oord et al. 2017, section 3.3; Vaswani et al. 2017, Attention Is All You Need, section 3,
    normalised before each layer.
    """

    def __init__(
        self,
        width: int = 64,
        num_heads: int = 4,
        num_blocks: int = 2,
        dropout: float = 0.1,
        num_codes: int | None = None,
        num_books: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.width = checks.positive_integer("width", width)
        self.num_heads = checks.positive_integer("num_heads", num_heads)
        if self.width % self.num_heads:
            raise ValueError(
                f"`width` must be a multiple of `num_heads`. Received: width={width}, num_heads={num_heads}"
            )
        self.dropout = checks.number("dropout", dropout, 0)
        if self.dropout >= 1:
            raise ValueError(f"`dropout` must be below 1. Received: dropout={checks.shown(dropout)}")
        # None until the model gives its own.
        self.num_codes: int = None  # type: ignore[assignment]
        self.num_books: int = None  # type: ignore[assignment]
        if num_codes is not None:
            self.num_codes = checks.positive_integer("num_codes", num_codes, 2)
        if num_books is not None:
            self.num_books = checks.positive_integer("num_books", num_books)
        number = checks.positive_integer("num_blocks", num_blocks)
        self.blocks = [CausalBlock(self.width, self.num_heads, self.dropout, self.dtype_policy) for _ in range(number)]
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy)
        # Set by `build`.
        self._own: dict[str, keras.Variable] = {}
        self.code_shape: tuple[int, ...] = None  # type: ignore[assignment]
        self.length: int = None  # type: ignore[assignment]

    def connect(self, num_codes: int, num_books: int, code_shape: tuple[int, ...]) -> None:
        """Receives the numbers of the model's codes, before it is built.

        Args:
            num_codes: K.
            num_books: Q.
            code_shape: the shape of the codes of one example, for which the prior may be built already.

        Raises:
            ValueError: the prior has others.
        """
        for name, own, given in (
            ("num_codes", self.num_codes, num_codes),
            ("num_books", self.num_books, num_books),
            ("code_shape", self.code_shape, code_shape),
        ):
            if own not in (None, given):
                raise ValueError(
                    f"`prior` must have the model's {name}, {given}, or None, and must not be shared between models. "
                    f"Received: a prior with {name}={own}"
                )
        self.num_codes, self.num_books = num_codes, num_books

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the network for codes [B, ...]."""
        if self.num_codes is None or self.num_books is None:
            raise ValueError("`num_codes` and `num_books` must be given to a prior without a model. Received: None")
        self.code_shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        self.length = math.prod(self.code_shape)
        codes, books = self.num_codes, self.num_books
        shapes = {
            "start": (self.width,),
            "places": (self.length, self.width),
            "embedding": (books * codes, self.width),
            "kernel": (books, self.width, codes),
            "bias": (books, codes),
        }
        for name, shape in shapes.items():
            # From zeros all codes are equally probable.
            is_zero = name in ("kernel", "bias")
            initializer = "zeros" if is_zero else keras.initializers.RandomNormal(stddev=_START)
            self._own[name] = self.add_weight(
                name=name, shape=shape, initializer=initializer, dtype="float32", autocast=False
            )
        for block in self.blocks:
            block.build((None, self.length, self.width))
        self.norm.build((None, self.length, self.width))
        self.built = True

    def log_prob(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes log p(z) [B], in nats.

        Args:
            codes: z [B, ...], integers in any dtype.
            training: whether dropout is active.
        """
        tokens = tf.reshape(tf.cast(codes, tf.int32), [-1, self.length])
        features = self._embedded(tokens + self._offsets())
        start, places, kernel, bias = self._tensors(features.dtype)
        first = start + tf.zeros_like(features[:, :1])
        features = tf.concat([first, features[:, :-1]], axis=1) + places
        for block in self.blocks:
            features = block(features, training=training)
        by_book = [-1, self.length // self.num_books, self.num_books]
        features = tf.cast(tf.reshape(self.norm(features), [*by_book, self.width]), tf.float32)
        logits = [features[:, :, book] @ kernel[book] + bias[book] for book in range(self.num_books)]
        chosen = tf.one_hot(tf.reshape(tokens, by_book), self.num_codes)
        log_probs = tf.nn.log_softmax(tf.stack(logits, axis=2))
        return tf.reduce_sum(chosen * log_probs, axis=[1, 2, 3])

    def sample_from(self, uniform: tf.Tensor, temperature: tf.Tensor | float = 1.0) -> tf.Tensor:
        """Computes z ~ p(z), code by code, from noise; each step reads what earlier ones left, not all of them again.

        Args:
            uniform: noise from U(0, 1) [B, D], one number for each code.
            temperature: the logits are divided by it, > 0: below 1 the probable codes become more probable.

        Returns:
            The codes [B, ...], integers as float32.
        """
        # From the noise, because a device would have to compute the shape of other zeros.
        zero = 0.0 * uniform[:, :1]
        places = tf.reshape(tf.range(self.length), [1, -1])
        dtype = tf.as_dtype(self.compute_dtype)
        empty = tf.cast(tf.reshape(zero, [-1, 1, 1]) + np.zeros([1, self.length, self.width]), dtype)
        start, of_places, kernel, bias = self._tensors(dtype)

        def body(t: tf.Tensor, last: tf.Tensor, made: tf.Tensor, caches: list[tf.Tensor]) -> tuple[Any, ...]:
            features = last + tf.gather(of_places, t)
            after = []
            for block, keys, values in zip(self.blocks, caches[::2], caches[1::2], strict=True):
                features, keys, values = block.step(features, keys, values, t)
                after += [keys, values]
            book = t % self.num_books
            features = tf.cast(self.norm(features), tf.float32)
            logits = features @ tf.gather(kernel, book) + tf.gather(bias, book)
            code = drawn(logits / temperature, tf.gather(uniform, t, axis=1))
            next_features = self._embedded(tf.cast(code, tf.int32) + book * self.num_codes)
            made = tf.where(places == t, code[:, tf.newaxis], made)
            after = [tf.ensure_shape(new, old.shape) for new, old in zip(after, caches, strict=True)]
            return t + 1, tf.ensure_shape(next_features, last.shape), made, after

        first = tf.cast(zero, dtype) + start
        state = (tf.constant(0), first, zero + np.zeros([1, self.length], np.float32), [empty] * (2 * len(self.blocks)))
        shapes = tf.nest.map_structure(lambda each: tf.TensorShape(each.shape), state)
        made = tf.while_loop(
            lambda t, *_: t < self.length, body, state, shape_invariants=shapes, maximum_iterations=self.length
        )[2]
        return tf.reshape(made, [-1, *self.code_shape])

    def _tensors(self, dtype: tf.DType) -> list[tf.Tensor]:
        """The first step and the vectors of the places, in a dtype, and the kernel and the bias of the logits."""
        names = ("start", "places", "kernel", "bias")
        start, places, kernel, bias = (tf.convert_to_tensor(self._own[name]) for name in names)
        return [tf.cast(start, dtype), tf.cast(places, dtype), kernel, bias]

    def _offsets(self) -> np.ndarray:
        """Where the vectors of the codebook of each place begin [D]."""
        return np.arange(self.length, dtype=np.int32) % self.num_books * self.num_codes

    def _embedded(self, tokens: tf.Tensor) -> tf.Tensor:
        # Not `tf.gather`, because its gradient is sparse, and replicas sum only dense gradients.
        table = tf.cast(tf.convert_to_tensor(self._own["embedding"]), self.compute_dtype)
        return tf.tensordot(tf.one_hot(tokens, table.shape[0], dtype=table.dtype), table, axes=1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = ("width", "num_heads", "dropout", "num_codes", "num_books")
        config = {**super().get_config(), **{name: getattr(self, name) for name in own}}
        return {**config, "num_blocks": len(self.blocks)}


def drawn(logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draws codes [B], as float32, from logits [B, K] by noise from U(0, 1) [B], by the inverse of their distribution.

    Args:
        logits: those of the probabilities of the codes.
        uniform: the noise.
    """
    cumulated = tf.cumsum(tf.nn.softmax(logits), axis=1)
    # The last one, which rounding may put below the noise, is not asked.
    return tf.reduce_sum(tf.cast(cumulated[:, :-1] <= uniform[:, tf.newaxis], tf.float32), axis=1)


class CausalBlock(keras.layers.Layer):
    """Attention to the steps before, and two dense layers, each normalised before and added to what it reads.

    Args:
        width: the number of features.
        num_heads: the number of heads.
        dropout: the share of features that are left out in training.
        dtype: the dtype policy.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, dtype: Any) -> None:
        super().__init__(dtype=dtype)
        self.num_heads, self.head = num_heads, width // num_heads
        layers = keras.layers
        self.norms = [layers.LayerNormalization(dtype=dtype) for _ in range(2)]
        self.projections = [layers.Dense(width, dtype=dtype) for _ in range(4)]
        self.dense = [layers.Dense(4 * width, activation="silu", dtype=dtype), layers.Dense(width, dtype=dtype)]
        self.dropouts = [layers.Dropout(dropout, dtype=dtype) for _ in range(2)]

    def build(self, input_shape: tuple[int | None, int, int]) -> None:
        """Creates the layers for features [B, D, width]."""
        for layer in (*self.norms, *self.projections, self.dense[0]):
            layer.build(input_shape)
        self.dense[1].build((*input_shape[:-1], 4 * input_shape[-1]))
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The features [B, D, width] after the block, each of those up to its own place."""
        length = x.shape[1]
        query, key, value = self._projected(x)
        query, key, value = (
            tf.transpose(tf.reshape(each, [-1, length, self.num_heads, self.head]), [0, 2, 1, 3])
            for each in (query, key, value)
        )
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32) / self.head**0.5
        later = np.triu(np.full([length, length], _UNSEEN, np.float32), 1)
        attention = tf.cast(tf.nn.softmax(scores + later), value.dtype)
        read = tf.transpose(tf.matmul(attention, value), [0, 2, 1, 3])
        return self._after(x, tf.reshape(read, [-1, length, self.num_heads * self.head]), training)

    def step(
        self, x: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, t: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The features [B, width] of the place t, and the keys and values [B, D, width] of the places up to it.

        Args:
            x: the features of the place t before the block.
            keys: those of the places before.
            values: those of the places before.
            t: the place.
        """
        places = tf.reshape(tf.range(keys.shape[1]), [1, -1, 1])
        query, key, value = self._projected(x)
        keys = tf.where(places == t, key[:, tf.newaxis], keys)
        values = tf.where(places == t, value[:, tf.newaxis], values)
        # With an axis of heads that ends at the features, sums over each head are matrix products.
        heads = np.kron(np.eye(self.num_heads, dtype=np.float32), np.ones([self.head, 1], np.float32))
        products = tf.reshape(tf.cast(query[:, tf.newaxis] * keys, tf.float32), [-1, self.num_heads * self.head])
        scores = tf.reshape(products @ heads, [-1, keys.shape[1], self.num_heads]) / self.head**0.5
        attention = tf.nn.softmax(tf.where(places <= t, scores, _UNSEEN), axis=1)
        attention = tf.reshape(attention, [-1, self.num_heads]) @ heads.T
        attention = tf.cast(tf.reshape(attention, [-1, *keys.shape[1:]]), values.dtype)
        return self._after(x, tf.reduce_sum(attention * values, axis=1), False), keys, values

    def _projected(self, x: tf.Tensor) -> list[tf.Tensor]:
        normalised = self.norms[0](x)
        return [project(normalised) for project in self.projections[:3]]

    def _after(self, x: tf.Tensor, read: tf.Tensor, training: bool) -> tf.Tensor:
        x = x + self.dropouts[0](self.projections[3](read), training=training)
        wide = self.dense[1](self.dense[0](self.norms[1](x)))
        return x + self.dropouts[1](wide, training=training)
