"""The results file of a benchmark: one JSON object per line, each with the processor and the package versions."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# The processor flags that decide how fast it multiplies matrices.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")


class Records:
    """The rows of a results file, to which more can be appended.

    Args:
        path: the file, or None to keep the rows only in memory.
        packages: the distributions whose versions are recorded in each row, if they are installed.
    """

    def __init__(self, path: Path | None, packages: Iterable[str]) -> None:
        self._path = path
        self._common = {"processor": processor(), "versions": _versions(packages)}
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._rows = [json.loads(line) for line in lines]

    def find(self, setting: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows that contain all entries of a setting, and were measured on this processor with these versions."""
        entries = {**setting, **self._common}
        return [row for row in self._rows if all(row.get(name) == value for name, value in entries.items())]

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Adds the rows of a setting, all at once, so that an interrupted run does not leave only some of them."""
        rows = [{**row, **self._common} for row in rows]
        self._rows += rows
        if self._path is not None:
            with open(self._path, "a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def resumed(
    path: Path | None, settings: Iterable[dict[str, Any]], measure: Callable[..., dict[str, Any]]
) -> list[dict]:
    """The results of settings, in their order; those that are in a file are not measured again.

    Args:
        path: a file of one JSON object per line, to which new results are added; None for none.
        settings: what identifies each result, by the names under which it is in the result.
        measure: a function of a setting to its result, which holds the setting.
    """
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    done, results = [json.loads(line) for line in lines], []
    for setting in settings:
        result = next((each for each in done if setting.items() <= each.items()), None)
        if result is None:
            result = measure(setting)
            print(json.dumps(result), flush=True)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(result) + "\n")
        results.append(result)
    return results


def processor() -> dict[str, Any]:
    """The processor: its name, its number of cores, and those of its flags that are in `_FLAGS`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    entries = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(entries.get("flags", "").split())
    return {
        "name": entries.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
    }


def available_memory() -> int:
    """The bytes of physical memory that are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
