"""Ways to damage a file, and what may be in its place."""

import io
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np


def flip(at: float) -> Callable[[bytes], bytes]:
    """Flips the bits of 4 bytes at a share of the length."""

    def damage(content: bytes) -> bytes:
        start = min(int(at * len(content)), max(len(content) - 4, 0))
        return content[:start] + bytes(byte ^ 0xFF for byte in content[start : start + 4]) + content[start + 4 :]

    return damage


FLIPS = {f"flipped at {at:.0%}": flip(at) for at in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut to a byte": lambda content: content[:1],
    "cut to a half": lambda content: content[: len(content) // 2],
    "random bytes": lambda content: np.random.default_rng(0).bytes(1000),
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"this is not what you expected, is it?\n" * 20,
}


def in_place_of(name: str) -> dict[str, Callable[[pathlib.Path], None]]:
    """What is no file, made in the place of a file."""

    def place(make: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
        def replace(folder: pathlib.Path) -> None:
            path = folder / name
            path.unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True, parents=True)
            make(path)

        return replace

    return {
        "missing": place(lambda path: None),
        "a pipe": place(os.mkfifo),
        "a folder": place(os.mkdir),
        "a dangling link": place(lambda path: path.symlink_to("nowhere")),
        "a link to itself": place(lambda path: path.symlink_to(path.name)),
        "a link to /dev/zero": place(lambda path: path.symlink_to("/dev/zero")),
        "a link to /dev/null": place(lambda path: path.symlink_to("/dev/null")),
    }


def damaged(name: str, damages: dict[str, Callable[[bytes], bytes]]) -> dict[str, Callable[[pathlib.Path], None]]:
    """The content of a file, damaged in each way."""

    def at(damage: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
        return lambda folder: (folder / name).write_bytes(damage((folder / name).read_bytes())) and None

    return {what: at(damage) for what, damage in damages.items()}


def holding(name: str, contents: dict[str, bytes]) -> dict[str, Callable[[pathlib.Path], None]]:
    """A file with each of the contents."""
    return damaged_new(name, {what: (lambda _, content=content: content) for what, content in contents.items()})


def damaged_new(name: str, damages: dict[str, Callable[[bytes], bytes]]) -> dict[str, Callable[[pathlib.Path], None]]:
    """As `damaged`, of a file that need not be there."""

    def at(damage: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
        def write(folder: pathlib.Path) -> None:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(damage(b""))

        return write

    return {what: at(damage) for what, damage in damages.items()}


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n".encode() for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML = {
    "empty": b"",
    "a list": b"- 1\n- 2\n",
    "a word": b"word",
    "binary": bytes(range(256)),
    "not UTF-8": b"data: \xff\xfe\n",
    "cut": b"data: [x.npy",
    "an alias bomb": BOMB,
    "a recursive alias": b"data: &a [*a]\n",
    "100000 brackets": b"[" * 100_000,
    "100000 braces": b"{a: " * 100_000,
    "a Python object": b"data: !!python/object/apply:os.system ['touch broken']\n",
    "an unknown tag": b"data: !x y\n",
    "no date": b"seed: 2001-99-99\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "tabs": b"\tdata: x\n",
    "a list for a key": b"? [a, b]\n: 1\n",
    "types that are wrong": b"data: [1]\nbatch_size: many\nepochs: {}\nseed: none\n",
    "a name that is unknown": b"nonsense: 1\n",
    "2 megabytes": b"# much\n" * 300_000,
}


def npy(array: np.ndarray, **options: object) -> bytes:
    """The content of a .npy file."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """The content of a .npy file with a header of one's own and little data."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (118 - len(text)) + "\n" if len(text) < 118 else "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


ARRAYS = {
    "a shape of terabytes": header("(1000000000, 1000)"),
    "a negative shape": header("(-1, 6)"),
    "a shape that overflows": header("(99999999999999999999, 6)"),
    "a shape of words": header("('a',)"),
    "an unknown type": header("(2, 2)", "'<q9'"),
    "objects": npy(np.array([{}, []], dtype=object), allow_pickle=True),
    "words": npy(np.array(["a", "b"])),
    "complex numbers": npy(np.zeros([9, 6], complex)),
    "fields": npy(np.zeros(9, [("a", "f4"), ("b", "i4")])),
    "dates": npy(np.zeros([9, 6], "datetime64[s]")),
    "a single number": npy(np.float32(1)),
    "no rows": npy(np.zeros([0, 6], np.float32)),
    "no columns": npy(np.zeros([9, 0], np.float32)),
    "one row": npy(np.zeros([1, 6], np.float32)),
    "NaN": npy(np.full([9, 6], np.nan, np.float32)),
    "infinity": npy(np.full([9, 6], np.inf, np.float32)),
}


def without(name: str) -> Callable[[bytes], bytes]:
    """Removes a file from a .keras."""

    def damage(content: bytes) -> bytes:
        new = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(new, "w") as target:
            for other in source.namelist():
                if other != name:
                    target.writestr(other, source.read(other))
        return new.getvalue()

    return damage
