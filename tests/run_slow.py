"""Runs the slow tests in parts, each in its own process; a run that was interrupted continues where it stopped.

    python tests/run_slow.py                # runs what has not passed yet
    python tests/run_slow.py --minutes 20   # starts no new part after 20 minutes
    python tests/run_slow.py --again        # runs everything again
    python tests/run_slow.py -k flows       # other arguments are passed to pytest to select tests

The result of each test is a line of .pytest_cache/slow.jsonl, with the commit at which it ran. The exit code is 0 if
every test has passed, 1 if one has failed, and 2 if some were not run.
"""

import argparse
import concurrent.futures
import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / ".pytest_cache" / "slow.jsonl"
# The tests of a part come from one file and share its fixtures. A part takes some minutes, after which the memory of
# its process is freed.
TESTS_OF_A_PART = 40


class Recorder:
    """Writes the result of each test as soon as it is known."""

    def __init__(self, commit):
        self.commit, self.outcome, self.seconds = commit, "passed", 0.0

    def pytest_runtest_logreport(self, report):
        self.seconds += report.duration
        if report.outcome != "passed" and self.outcome != "failed":
            self.outcome = report.outcome
        if report.when == "teardown":
            line = {"test": report.nodeid, "outcome": self.outcome, "seconds": round(self.seconds, 1)}
            with open(RECORD, "a") as file:
                file.write(json.dumps({**line, "commit": self.commit}) + "\n")
            self.outcome, self.seconds = "passed", 0.0


def results():
    """The last result of each test."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {result["test"]: result for result in map(json.loads, lines)}


def collected(arguments):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "slow", "--collect-only", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    tests = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    assert done.returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout[-4000:]
    return tests


def parts(tests):
    for _, of_file in itertools.groupby(tests, lambda test: test.split("::")[0]):
        while part := list(itertools.islice(of_file, TESTS_OF_A_PART)):
            yield part


def run_part(tests, commit):
    """Runs tests in a new process, and returns what it printed if one of them failed."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
        chosen.write("\n".join(tests))
        chosen.flush()
        command = [sys.executable, __file__, "--part", chosen.name, commit]
        # With more threads each, parts that run at the same time would wait for one another.
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", "1")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout[-20_000:] + done.stderr[-4000:]


def main():
    if sys.argv[1:2] == ["--part"]:
        chosen, commit = sys.argv[2:]
        if sys.platform == "linux":
            # PR_SET_PDEATHSIG: the part is killed when the process that started it ends.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        command = ["-n", "0", "-m", "slow", "-q", f"@{chosen}"]
        sys.exit(pytest.main(command, plugins=[Recorder(commit)]))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="forget what has passed")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no part after that time")
    parser.add_argument("--processes", type=int, default=2, help="how many parts run at the same time")
    options, arguments = parser.parse_known_args()

    end = time.monotonic() + 60 * options.minutes
    RECORD.parent.mkdir(exist_ok=True)
    if options.again:
        RECORD.unlink(missing_ok=True)
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    tests = collected(arguments)
    done = results()
    left = [test for test in tests if done.get(test, {}).get("outcome") not in ("passed", "skipped")]
    print(f"{len(tests)} slow tests, of which {len(tests) - len(left)} have passed before")

    def run(number, part):
        if time.monotonic() > end:
            return
        begin = time.monotonic()
        printed = run_part(part, commit)
        minutes = (time.monotonic() - begin) / 60
        print(f"{printed}\npart {number} of {len(todo)}, {part[0]} ... : {'failed' if printed else 'passed'}", end=" ")
        print(f"in {minutes:.1f} minutes", flush=True)

    todo = list(parts(left))
    with concurrent.futures.ThreadPoolExecutor(options.processes) as executor:
        list(executor.map(run, range(1, len(todo) + 1), todo))

    done = results()
    of_now = [done[test] for test in tests if test in done]
    counts = {kind: [each for each in of_now if each["outcome"] == kind] for kind in ("passed", "failed", "skipped")}
    print(*(f"{len(each)} {kind}" for kind, each in counts.items()), f"{len(tests) - len(of_now)} not run", sep=", ")
    print("commits:", *sorted({each["commit"] for each in of_now}))
    for each in counts["failed"]:
        print("failed:", each["test"])
    sys.exit(1 if counts["failed"] else 2 if len(of_now) < len(tests) else 0)


if __name__ == "__main__":
    main()
