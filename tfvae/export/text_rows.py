"""How a client passes texts to an exported model, without TensorFlow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfvae import checks
from tfvae.data.vocabulary import Vocabulary, are_texts
from tfvae.export.formats.format import Call, Shapes

# The input that takes texts themselves, in formats that have texts.
_TEXT = "text"


class TextRows:
    """The vocabulary of an exported model of texts, which turns them into x, their codes, and what is made into texts.

    Args:
        metadata: the description of the export, with `vocabulary`.
    """

    names = None
    described = "texts, or codes"

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.vocabulary = Vocabulary.from_config(metadata["vocabulary"])
        # None where any length is taken.
        self._length: int | None = None

    def shapes(self, shapes: Shapes) -> Shapes:
        """The shapes of the inputs of each signature, with x in the place of texts."""
        lengths = {own["x"][1] for own in shapes.values() if "x" in own}
        self._length = lengths.pop() if lengths else None
        return {
            signature: {
                ("x" if name == _TEXT else name): ((None, None, 1) if name == _TEXT else shape)
                for name, shape in own.items()
            }
            for signature, own in shapes.items()
        }

    def call(self, call: Call, shapes: Shapes) -> Call:
        """The call of a signature with x in the place of texts.

        Args:
            call: the call with the inputs of the export.
            shapes: their shapes.
        """

        def with_x(signature: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if _TEXT in shapes[signature]:
                others = {name: array for name, array in arrays.items() if name != "x"}
                arrays = {_TEXT: np.array(self.vocabulary.decode(arrays["x"]), object), **others}
            return call(signature, arrays)

        return with_x

    def gathered(self, arguments: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a signature, in which `text` may be the name of x."""
        if _TEXT not in arguments or "x" in arguments or "x" not in inputs:
            return arguments
        return {("x" if name == _TEXT else name): value for name, value in arguments.items()}

    def codes(self, x: Any) -> np.ndarray:
        """The codes [N, T, 1], float32, of texts, or of such themselves.

        Raises:
            ValueError: x is one text, or a text is empty, too long, or has a symbol that is not in the vocabulary.
        """
        if isinstance(x, str):
            raise ValueError(f"`x` must be a list of texts. Received: x={checks.shown(x)}, one text: give it as [x]")
        return self.vocabulary.encode(list(x), self._length) if are_texts(x) else checks.to_numpy(x)

    def rows(self, array: Any, seed: int = 0) -> list[str]:
        """The texts that codes [N, T, 1] stand for; the seed has no effect."""
        return self.vocabulary.decode(array)
