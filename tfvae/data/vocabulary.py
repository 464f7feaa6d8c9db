"""Texts as codes: the symbols of a vocabulary, such as characters, words or the atoms of SMILES, are numbered."""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from tfvae import checks

# How a text is cut into symbols, in the syntax that Python's `re` and TensorFlow's RE2 share. In SMILES an atom in
# brackets, an atom of two letters and a ring number of two digits are one symbol each.
PATTERNS = {
    "characters": r"(?s:.)",
    "smiles": r"\[[^\[\]]*\]|Br|Cl|%[0-9][0-9]|(?s:.)",
    "words": r"\S+",
}
# What stands between the symbols of a text.
_SEPARATORS = {"words": " "}
# What `decode` gives for symbols that the vocabulary does not have.
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """The symbols of texts, each with a code: a whole number.

    Code 0 is the end of a text, codes 1 to n are the symbols, and code n + 1 stands for all unknown symbols, if there
    is such a code.

    Texts are lists of `str`, which plain Python reads: `Path("lines.txt").read_text().splitlines()` for one a line,
    `pandas.read_csv("table.csv")["text"].tolist()` for a column, and `[line.split()[0] for line in lines]` for the
    lines of a .smi file, where a name follows each SMILES.

    Args:
        symbols: the symbols, in the order of their codes, all different.
        kind: how texts are cut into symbols: "characters"; "words", which are separated by white space; or "smiles",
            where `Cl`, `[nH+]` and `%12` are one symbol each.
        unknown: whether symbols that are not in the vocabulary have a code of their own. Otherwise they are an error.

    Raises:
        ValueError: an argument is out of its range.
    """

    # The code of the end of a text.
    end = 0

    def __init__(
        self,
        symbols: Iterable[str],
        kind: Literal["characters", "words", "smiles"] = "characters",
        unknown: bool = False,
    ) -> None:
        self._pattern = _pattern(kind)
        self.kind, self.unknown = kind, checks.boolean("unknown", unknown)
        if not isinstance(symbols, Iterable):
            raise ValueError(f"`symbols` must be a list of str. Received: {checks.shown(symbols)}")
        self.symbols = tuple(symbols)
        wrong = [each for each in self.symbols if not isinstance(each, str) or self._pattern.fullmatch(each) is None]
        if wrong or not self.symbols or len(set(self.symbols)) < len(self.symbols):
            received = f"{checks.shown(wrong[0])} among them" if wrong else checks.shown(self.symbols)
            raise ValueError(
                f"`symbols` must be different texts, each a single symbol of the kind {kind!r}. Received: {received}"
            )
        self._codes = {symbol: code for code, symbol in enumerate(self.symbols, 1)}

    @classmethod
    def learn(
        cls,
        texts: Any,
        kind: Literal["characters", "words", "smiles"] = "characters",
        max_size: int | None = None,
        unknown: bool = False,
    ) -> "Vocabulary":
        """Learns the symbols of texts.

        Args:
            texts: a list of `str`, of the training alone.
            kind: see `Vocabulary`.
            max_size: the most symbols, of which the most frequent are kept; it needs `unknown=True` for the others.
                None keeps all.
            unknown: see `Vocabulary`.

        Raises:
            ValueError: an argument is out of its range, or the texts are not a list of `str`.
        """
        pattern = _pattern(kind)
        counts = collections.Counter(symbol for text in _checked(texts) for symbol in pattern.findall(text))
        if not counts:
            raise ValueError("`texts` must have at least one symbol. Received: texts without any")
        # In the order of the texts' alphabet, so that the same texts in another order give the same codes.
        symbols = sorted(counts)
        if max_size is not None:
            max_size = checks.positive_integer("max_size", max_size)
            if not unknown and len(symbols) > max_size:
                raise ValueError(
                    f"`max_size` must be at least the number of symbols, {len(symbols)}, unless unknown=True gives "
                    f"those left out a code. Received: max_size={max_size}, unknown=False"
                )
            symbols = sorted(symbols, key=lambda symbol: -counts[symbol])[:max_size]
        return cls(symbols, kind, unknown)

    @property
    def num_classes(self) -> int:
        """The number of codes, as `likelihoods.Categorical` takes it: of the symbols, the end and the unknown."""
        return 1 + len(self.symbols) + self.unknown

    def __repr__(self) -> str:
        """The kind, and the number of codes."""
        return f"Vocabulary of {len(self.symbols)} {self.kind}, {self.num_classes} codes"

    def encode(self, texts: Any, length: int | None = None) -> np.ndarray:
        """Turns texts into codes, each with the code of the end after its last symbol, and NaN after that.

        Args:
            texts: a list of `str`.
            length: T, the number of steps, at least one more than the longest text has symbols; None means that.

        Returns:
            The codes `[N, T, 1]`, float32.

        Raises:
            ValueError: the texts are not a list of `str`, or one has no symbols, too many, or an unknown one.
        """
        rows = [self._codes_of(index, text) for index, text in enumerate(_checked(texts))]
        longest = max(map(len, rows))
        length = longest if length is None else checks.positive_integer("length", length)
        if longest > length:
            index = next(index for index, row in enumerate(rows) if len(row) > length)
            raise ValueError(
                f"`texts` must have at most {length - 1} symbols each where length={length}, because the end takes one "
                f"step. Received: {len(rows[index]) - 1} symbols at index {index}"
            )
        codes = np.full([len(rows), length, 1], np.nan, np.float32)
        for place, row in zip(codes, rows, strict=True):
            place[: len(row), 0] = row
        return codes

    def decode(self, codes: Any) -> list[str]:
        """Turns codes into texts, each up to the first end or NaN; `UNKNOWN`, U+FFFD, stands for an unknown symbol.

        Args:
            codes: an array `[N, T, 1]` or `[N, T]`.

        Raises:
            ValueError: the array has another shape, or a value that is no code.
        """
        array = checks.to_numpy(codes, "codes")
        array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
        if array.ndim != 2:
            raise ValueError(f"`codes` must have the shape [N, T, 1]. Received: shape {list(np.shape(codes))}")
        is_wrong = ~(np.isnan(array) | np.isin(array, np.arange(self.num_classes)))
        checks.check_elements(
            np.where(is_wrong, array, 0),
            lambda part: part != 0,
            f"hold the codes 0 to {self.num_classes - 1}, or NaN after the end",
            "codes",
        )
        ends = np.isnan(array) | (array == self.end)
        lengths = np.where(ends.any(axis=1), ends.argmax(axis=1), array.shape[1])
        symbols = ["", *self.symbols, UNKNOWN]
        join = _SEPARATORS.get(self.kind, "").join
        return [join(symbols[int(code)] for code in row[:length]) for row, length in zip(array, lengths, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return {"symbols": list(self.symbols), "kind": self.kind, "unknown": self.unknown}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Vocabulary":
        """Makes the vocabulary from what `get_config` returned."""
        return cls(**config)

    def _codes_of(self, index: int, text: str) -> list[int]:
        symbols = self._pattern.findall(text)
        if not symbols:
            raise ValueError(f"`texts` must have at least one symbol each. Received: {text!r} at index {index}")
        if not self.unknown and (new := next((each for each in symbols if each not in self._codes), None)) is not None:
            raise ValueError(
                f"`texts` must have the symbols of the vocabulary, unless it was learnt with unknown=True. Received: "
                f"{checks.shown(new)} at index {index}"
            )
        return [*(self._codes.get(symbol, 1 + len(self.symbols)) for symbol in symbols), self.end]


def are_texts(x: Any) -> bool:
    """Whether data are texts: a list, an array or a column of a data frame that holds `str`."""
    if hasattr(x, "to_list") and hasattr(x, "iloc"):
        x = x.to_list()
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "UT" or (x.dtype == object and x.ndim == 1 and x.size > 0 and isinstance(x[0], str))
    return isinstance(x, list | tuple) and len(x) > 0 and isinstance(x[0], str)


def _pattern(kind: str) -> re.Pattern[str]:
    if not isinstance(kind, str) or kind not in PATTERNS:
        names = " or ".join(f'"{name}"' for name in PATTERNS)
        raise ValueError(f"`kind` must be {names}. Received: kind={checks.shown(kind)}")
    return re.compile(PATTERNS[kind])


def _checked(texts: Any) -> list[str]:
    if isinstance(texts, str | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(f"`texts` must be a list of str. Received: {checks.shown(texts)}")
    given = list(texts)
    wrong = [index for index, text in enumerate(given) if not isinstance(text, str)]
    if wrong or not given:
        received = f"{checks.shown(given[wrong[0]])} at index {wrong[0]}" if wrong else "no text"
        raise ValueError(f"`texts` must be a list of str. Received: {received}")
    return given
