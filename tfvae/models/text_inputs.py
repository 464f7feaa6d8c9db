"""Codes, and texts in their place, as inputs of an export."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.data.vocabulary import PATTERNS, Vocabulary
from tfvae.exportable import Arrays, NamedColumns, Signature
from tfvae.numerics import is_number

_NAME = "text"
# What is put after each symbol of a text to split it there, which no text holds.
_BREAK = "\0"


def columns(vocabulary: Vocabulary, length: int) -> NamedColumns:
    """The input `text`, of strings [B], in the place of x.

    Args:
        vocabulary: what the codes of x stand for.
        length: the least number of steps of x, so that the outputs of most requests have one shape.
    """
    keys = tf.constant(vocabulary.symbols)
    numbers = tf.range(1, len(vocabulary.symbols) + 1, dtype=tf.int64)
    unknown = len(vocabulary.symbols) + 1 if vocabulary.unknown else -1
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, numbers), unknown)

    def in_graph(named: Mapping[str, tf.Tensor]) -> tf.Tensor:
        symbols = _symbols(vocabulary, named[_NAME])
        found = tf.cast(tf.ragged.map_flat_values(table.lookup, symbols), tf.float32)
        # As the contract of `NamedColumns` says; an empty text is none either.
        wrong = tf.ragged.map_flat_values(lambda code: tf.where(code < 0, np.inf, code), found)
        ends = tf.where(symbols.row_lengths()[:, tf.newaxis] > 0, float(vocabulary.end), np.inf)
        with_end = tf.concat([wrong, tf.RaggedTensor.from_tensor(tf.cast(ends, tf.float32))], axis=1)
        codes = with_end.to_tensor(np.float32(np.nan))
        padding = tf.fill([tf.shape(codes)[0], tf.maximum(length - tf.shape(codes)[1], 0)], np.float32(np.nan))
        return tf.concat([codes, padding], axis=1)[..., tf.newaxis]

    def raw(x: np.ndarray) -> Arrays:
        return {_NAME: np.array(vocabulary.decode(x), object)}

    return NamedColumns(
        (tf.TensorSpec([None], tf.string, _NAME),),
        in_graph,
        raw,
        {_NAME: _NAME},
        {_NAME: f"a text, in UTF-8, of {vocabulary.kind} that the vocabulary has"},
        called=_NAME,
        wrong="a text that is empty"
        + ("" if vocabulary.unknown else " or has a symbol that the vocabulary does not have"),
        resources=(table,),
    )


def listed(data: Any) -> Any:
    """Tensors and arrays of strings as lists of `str`, and other data as they are.

    Raises:
        ValueError: the data are a single text, or a dataset of texts.
    """
    is_dataset = isinstance(data, tf.data.Dataset)
    specs = tf.nest.flatten(data.element_spec) if is_dataset else []
    if isinstance(data, str | bytes) or any(getattr(spec, "dtype", None) == tf.string for spec in specs):
        raise ValueError(
            "Texts in the place of `x` must be a list of str; a dataset must hold codes, as vocabulary.encode makes "
            f"them. Received: {checks.shown(data)}"
        )
    if isinstance(data, tf.Tensor) and data.dtype == tf.string:
        data = data.numpy()
    is_bytes = isinstance(data, np.ndarray) and data.ndim == 1 and data.size > 0 and isinstance(data[0], bytes)
    return [text.decode() for text in data] if is_bytes else data


def of_codes(signature: Signature, num_classes: int, named: NamedColumns | None = None) -> Signature:
    """The signature, in which a sequence with a value that is no code gets NaN in every output, and harms no other.

    Networks look codes up in a table, where a code out of its range would be an error of the whole batch.

    Args:
        signature: a function of x, or of other inputs alone.
        num_classes: the number of codes.
        named: the result of `columns`, if texts may stand in the place of x.
    """
    names = [spec.name for spec in signature.inputs]
    if "x" not in names:
        return signature

    def function(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = dict(zip(names, tensors, strict=True))
        x = inputs["x"]
        is_code = (x >= 0) & (x < num_classes) & tf.equal(x, tf.floor(x))
        inputs["x"] = tf.where(is_code, x, np.float32(np.nan))
        # The sum is NaN where one is, and so is what it is added to. Not by a negation, because the converter to TFLite
        # takes the opposite comparison for it, which is not true for NaN either.
        mark = tf.where(is_number(x), tf.where(is_code, 0.0, np.float32(np.nan)), 0.0)
        mark = tf.reduce_sum(mark, axis=[1, 2])
        outputs = signature.function(*inputs.values())
        return {
            name: output + tf.reshape(mark, [-1, *(1 for _ in output.shape[1:])]) for name, output in outputs.items()
        }

    return dataclasses.replace(signature, function=function, columns=named)


def _symbols(vocabulary: Vocabulary, texts: tf.Tensor) -> tf.RaggedTensor:
    if vocabulary.kind == "characters":
        return tf.strings.unicode_split(texts, "UTF-8")
    if vocabulary.kind == "words":
        return tf.strings.split(texts)
    broken = tf.strings.regex_replace(texts, f"({PATTERNS[vocabulary.kind]})", rf"\1{_BREAK}")
    parts = tf.strings.split(broken, _BREAK)
    # After the last break there is an empty part.
    return tf.ragged.boolean_mask(parts, parts != "")
