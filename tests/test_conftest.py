"""The fixture that starts workers also ends them."""

import os
import time

import pytest


@pytest.mark.slow
def test_workers_that_fail_or_last_too_long_are_killed(run_workers, tmp_path):
    script = """
        import json, os, pathlib, sys, time
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        folder = pathlib.Path(sys.argv[1])
        (folder / str(index)).write_text(str(os.getpid()))
        while not ((folder / "0").exists() and (folder / "0").read_text()):
            time.sleep(0.01)
        if sys.argv[2] == "fail" and index == 1:
            raise RuntimeError("as told")
        time.sleep(30)
    """

    def check_killed():
        for index in range(2):
            with pytest.raises(ProcessLookupError):
                os.kill(int((tmp_path / str(index)).read_text()), 0)

    begin = time.monotonic()
    with pytest.raises(AssertionError, match=r"worker 1 ended with 1:\n(?s:.*)RuntimeError: as told"):
        run_workers(script, 2, tmp_path, "fail")
    check_killed()
    with pytest.raises(AssertionError, match="not done after 1 seconds"):
        run_workers(script, 2, tmp_path, "last", timeout=1)
    assert time.monotonic() - begin < 20
    check_killed()
