"""Runs the bad inputs of `tests/helpers/bad_inputs.py`, and prints a table of what the command line makes of them.

    python -m tests.run_bad_inputs                # all cases, in some twenty minutes
    python -m tests.run_bad_inputs 'odd paths'    # those of one kind
    python -m tests.run_bad_inputs --every 10     # some of each kind

A case passes if the command ends with the expected exit code and no traceback, in 20 seconds of CPU time, and if what
was in the folder before is still there. Each case that fails is printed.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np

from tests.helpers.bad_case import QUICK, TRAIN, Case
from tests.helpers.bad_inputs import cases
from tests.helpers.processes import COMMAND, Processes

CPU_SECONDS = 20
# For processes that wait; far more than the CPU time, because other programs use the machine too.
WALL_SECONDS = 300
AT_ONCE = 4
CUT = """
from tfvae.callbacks import Checkpoints
save, calls = Checkpoints._save, []
def cut(*arguments):
    save(*arguments)
    calls.append(1)
    if len(calls) == 2:
        raise KeyboardInterrupt
Checkpoints._save = cut
"""


def make_base(processes: Processes, folder: pathlib.Path) -> None:
    """Makes the folder that each case gets a copy of: a trained run, one that was cut, exports and data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype(np.float32)
    for name in ("x.npy", "d.npy"):
        np.save(folder / name, x)
    np.savez_compressed(folder / "d.npz", x=x)
    columns = ",".join("abcdef")
    np.savetxt(folder / "d.csv", x, delimiter=",", header=columns, comments="")
    processes.run(
        "import pandas, sys; pandas.read_csv(sys.argv[1]).to_parquet(sys.argv[2])",
        folder / "d.csv",
        folder / "d.parquet",
    )
    processes.run(QUICK + COMMAND, *TRAIN, folder=folder)
    assert processes.start(CUT + COMMAND, *TRAIN, "--name", "cut", folder=folder).wait() == 130


def contents(folder: pathlib.Path) -> collections.Counter[str]:
    """The digests of all files below a folder: a file that was moved is not lost."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size)
    return collections.Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


class Running:
    """A case whose command runs."""

    def __init__(self, processes: Processes, case: Case, base: pathlib.Path, folder: pathlib.Path) -> None:
        self.case, self.folder = case, folder
        shutil.copytree(base, folder, symlinks=True)
        if case.make is not None:
            case.make(folder)
        self.earlier = contents(folder)
        self.process = processes.start(
            case.before + COMMAND, *case.arguments, folder=folder, environment=case.environment
        )
        self.began = time.monotonic()

    def faults(self) -> list[str] | None:
        """What is wrong with how the command ended; None while it runs."""
        hangs = time.monotonic() - self.began > WALL_SECONDS or cpu_seconds(self.process.pid) > CPU_SECONDS
        if hangs:
            self.process.kill()
            self.process.wait()
        code = self.process.poll()
        if code is None:
            return None
        printed, found = self.process.stderr, []
        if hangs:
            found.append("hangs")
        elif code < 0 or code > 128:
            found.append("crashes")
        elif code not in self.case.codes:
            found.append("wrong code")
        if "Traceback" in printed:
            found.append("tracebacks")
        # A command that succeeds replaces what it is told to.
        if code != 0 and self.earlier - contents(self.folder):
            found.append("files lost")
        if list(self.folder.rglob("broken")):
            found.append("wrong code")
        self.last_line = f"exit code {code}: " + (printed.strip().splitlines() or [""])[-1][:300]
        shutil.rmtree(self.folder)
        return found


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used so far."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


FAULTS = ("tracebacks", "hangs", "crashes", "files lost", "wrong code")


def run(chosen: list[Case], folder: pathlib.Path) -> tuple[str, list[str]]:
    """Runs cases, and returns the table and a line for each that fails."""
    counts: dict[str, collections.Counter[str]] = {case.kind: collections.Counter() for case in chosen}
    failed = []
    with Processes(folder) as processes:
        base = folder / "base"
        base.mkdir()
        make_base(processes, base)
        waiting, running = list(enumerate(chosen)), []
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                number, case = waiting.pop(0)
                running.append(Running(processes, case, base, folder / f"case {number}"))
            for one in running.copy():
                faults = one.faults()
                if faults is None:
                    continue
                running.remove(one)
                counts[one.case.kind].update(["cases", *faults])
                if faults:
                    failed.append(f"{one.case.kind}: {one.case.name}: {', '.join(faults)}; {one.last_line}")
                    print(failed[-1], flush=True)
            time.sleep(0.02)
    total = sum(counts.values(), collections.Counter())
    names = ("cases", *FAULTS)
    lines = [f"{'kind':<18}" + "".join(f"{name:>12}" for name in names)]
    lines += [
        f"{kind:<18}" + "".join(f"{c[name]:>12}" for name in names) for kind, c in (counts | {"all": total}).items()
    ]
    return "\n".join(lines), failed


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="the kinds of cases; all by default")
    parser.add_argument("--every", type=int, default=1, help="run only each n-th case")
    given = parser.parse_args()
    chosen = [case for case in cases() if not given.kinds or case.kind in given.kinds][:: given.every]
    with tempfile.TemporaryDirectory() as folder:
        table, failed = run(chosen, pathlib.Path(folder))
    print("", table, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
