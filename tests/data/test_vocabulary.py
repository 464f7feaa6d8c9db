"""Texts as codes, and back."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tfvae.data import Vocabulary
from tfvae.data.vocabulary import UNKNOWN, are_texts

TEXTS = {
    "characters": ["to be", "or", "not\nto be — é"],
    "words": ["to be or not", "to be"],
    "smiles": ["CC(=O)Oc1ccccc1", "Cl[C@@H](Br)c1c[nH+]cc1", "C%12CC%12"],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_come_back_from_their_codes_also_after_a_configuration(kind):
    texts = TEXTS[kind]
    vocabulary = Vocabulary.learn(texts, kind)
    codes = vocabulary.encode(texts, length=40)
    assert codes.shape == (len(texts), 40, 1)
    assert codes.dtype == np.float32
    again = Vocabulary.from_config(json.loads(json.dumps(vocabulary.get_config())))
    assert again.decode(codes) == again.decode(codes[..., 0]) == texts
    assert repr(again) == f"Vocabulary of {len(again.symbols)} {kind}, {again.num_classes} codes"


def test_a_text_ends_with_the_code_of_the_end_and_then_nan():
    vocabulary = Vocabulary(["a", "b"])
    np.testing.assert_array_equal(vocabulary.encode(["ab", "b"])[..., 0], [[1, 2, 0], [2, 0, np.nan]])
    assert vocabulary.num_classes == 3
    # What a model gives after the end, or where there is none, is no part of the text.
    assert vocabulary.decode([[1, 0, 2], [1, np.nan, 2], [2, 2, 2], [0, 1, 1]]) == ["a", "a", "bbb", ""]


def test_what_is_no_kind_and_texts_without_symbols_are_refused_by_name():
    with pytest.raises(ValueError, match=re.escape("`kind` must be") + ".*Received: kind=.'char'.$"):
        Vocabulary.learn(["a"], kind=["char"])
    with pytest.raises(ValueError, match=r"`texts` must have at least one symbol\. Received: texts without any"):
        Vocabulary.learn(["", ""])
    with pytest.raises(ValueError, match=r"`symbols` must be a list of str\. Received: None"):
        Vocabulary(None)


def test_the_symbols_of_smiles_are_atoms_bonds_and_rings():
    symbols = Vocabulary.learn(TEXTS["smiles"], "smiles").symbols
    assert {"Cl", "Br", "[C@@H]", "[nH+]", "%12", "c", "="} <= set(symbols)
    assert "l" not in symbols
    assert "[" not in symbols


def test_the_most_frequent_symbols_are_kept_and_others_are_unknown():
    vocabulary = Vocabulary.learn(["b a b", "c b a"], "words", max_size=2, unknown=True)
    assert vocabulary.symbols == ("b", "a")
    codes = vocabulary.encode(["a new b"])
    assert codes[0, :, 0].tolist() == [2, 3, 1, 0]
    assert vocabulary.decode(codes) == [f"a {UNKNOWN} b"]
    assert vocabulary.num_classes == 4
    # The order of the texts, and of symbols that are equally frequent, does not change the codes.
    assert Vocabulary.learn(["ba", "c"]).symbols == Vocabulary.learn(["c", "ab"]).symbols


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary.learn("a text"), "`texts` must be a list of str"),
        (lambda: Vocabulary.learn([]), "no text"),
        (lambda: Vocabulary.learn(["a", 1]), "1 at index 1"),
        (lambda: Vocabulary.learn(["a", "b"], "letters"), "`kind`"),
        (lambda: Vocabulary.learn(["a", "b"], max_size=1), "`max_size`"),
        (lambda: Vocabulary(["a", "a"]), "`symbols`"),
        (lambda: Vocabulary(["a", "ab"]), "'ab' among them"),
        (lambda: Vocabulary([]), "`symbols`"),
        (lambda: Vocabulary(["a"], unknown="no"), "`unknown`"),
        (lambda: Vocabulary(["a"]).encode(["a", ""]), "'' at index 1"),
        (lambda: Vocabulary(["a"]).encode(["a", "ba"]), "unknown=True.*'b' at index 1"),
        (lambda: Vocabulary(["a"]).encode(["a", "aaa"], length=3), "at most 2 symbols.*3 symbols at index 1"),
        (lambda: Vocabulary(["a"]).decode(np.zeros(3)), "`codes`"),
        (lambda: Vocabulary(["a"]).decode([[0, 2]]), r"codes with the value 2\.?0? at index \[0, 1\]"),
    ],
)
def test_what_is_no_text_or_no_code_is_refused(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        call()
    assert "Received: " in str(error.value)


def test_texts_are_recognised_in_lists_arrays_and_columns():
    for texts in (["a"], ("a",), np.array(["a"]), np.array(["a"], object), pd.Series(["a"])):
        assert are_texts(texts)
    for others in ("a", [], [1.0], np.zeros((2, 3)), pd.Series([1.0]), {"x": ["a"]}, None):
        assert not are_texts(others)
