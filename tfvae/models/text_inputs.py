"""Texts as inputs of an export, which a graph turns into codes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfvae.data.vocabulary import PATTERNS, Vocabulary
from tfvae.exportable import Arrays, NamedColumns, Signature

_NAME = "text"
# What is put after each symbol of a text to split it there, which no text holds.
_BREAK = "\0"


def columns(vocabulary: Vocabulary) -> NamedColumns:
    """The input `text`, of strings [B], in the place of x."""
    keys = tf.constant(vocabulary.symbols)
    codes = tf.range(1, len(vocabulary.symbols) + 1, dtype=tf.int64)
    unknown = len(vocabulary.symbols) + 1 if vocabulary.unknown else -1
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, codes), unknown)

    def in_graph(named: Mapping[str, tf.Tensor]) -> tf.Tensor:
        symbols = _symbols(vocabulary, named[_NAME])
        found = tf.cast(tf.ragged.map_flat_values(table.lookup, symbols), tf.float32)
        # As the contract of `NamedColumns` says; an empty text is none either.
        wrong = tf.ragged.map_flat_values(lambda code: tf.where(code < 0, np.inf, code), found)
        ends = tf.where(symbols.row_lengths()[:, tf.newaxis] > 0, float(vocabulary.end), np.inf)
        with_end = tf.concat([wrong, tf.RaggedTensor.from_tensor(tf.cast(ends, tf.float32))], axis=1)
        return with_end.to_tensor(np.float32(np.nan))[..., tf.newaxis]

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
        + ("" if vocabulary.unknown else " or has\na symbol that the vocabulary does not have"),
        resources=(table,),
    )


def of_texts(signature: Signature, named: NamedColumns) -> Signature:
    """The signature, in which texts may stand in the place of x.

    Args:
        signature: a function of x, or of other inputs alone.
        named: the result of `columns`.
    """
    takes_x = any(spec.name == "x" for spec in signature.inputs)
    return dataclasses.replace(signature, columns=named) if takes_x else signature


def _symbols(vocabulary: Vocabulary, texts: tf.Tensor) -> tf.RaggedTensor:
    if vocabulary.kind == "characters":
        return tf.strings.unicode_split(texts, "UTF-8")
    if vocabulary.kind == "words":
        return tf.strings.split(texts)
    broken = tf.strings.regex_replace(texts, f"({PATTERNS[vocabulary.kind]})", rf"\1{_BREAK}")
    parts = tf.strings.split(broken, _BREAK)
    # After the last break there is an empty part.
    return tf.ragged.boolean_mask(parts, parts != "")
