"""The slow tests in parts: tests that were interrupted or failed are run again, those that passed are not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os, pathlib, signal
import pytest

pytestmark = pytest.mark.slow
mended = pathlib.Path("mended").exists()


@pytest.fixture(autouse=True)
def log(request):
    with open("log", "a") as file:
        print(request.node.name, file=file)


def test_that_passes():
    pass


def test_that_fails():
    assert mended


def test_that_is_killed():
    mended or os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script in a project with three slow tests; gives its exit code, its output and the tests that it ran."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_three.py").write_text(TESTS)
    shutil.copy(Path(__file__).parent / "run_slow.py", tmp_path / "tests")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "-m \'not slow\'"\nmarkers = ["slow"]\n'
    )

    def run(*arguments):
        (tmp_path / "log").write_text("")
        command = [sys.executable, tmp_path / "tests/run_slow.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, (tmp_path / "log").read_text().split()

    return run


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_where_it_was(run, tmp_path):
    code, printed, ran = run()
    assert (code, ran) == (1, ["test_that_passes", "test_that_fails", "test_that_is_killed"])
    assert "1 passed, 1 failed, 0 skipped, 1 not run" in printed
    assert "failed: tests/test_three.py::test_that_fails" in printed
    (tmp_path / "mended").touch()
    code, printed, ran = run()
    assert (code, ran) == (0, ["test_that_fails", "test_that_is_killed"])
    assert "3 passed, 0 failed, 0 skipped, 0 not run" in printed
    code, printed, ran = run()
    assert (code, ran) == (0, [])
    assert "3 slow tests, of which 3 have passed before" in printed


def test_no_part_begins_when_the_time_is_over(run):
    code, printed, ran = run("--minutes", "0", "-k", "passes")
    assert (code, ran) == (2, [])
    assert "0 passed, 0 failed, 0 skipped, 1 not run" in printed
