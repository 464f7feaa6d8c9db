"""The command line is given what is bad: it must say so in one line, in time, and lose nothing."""

import numpy as np
import pytest

from tests import run_bad_inputs
from tests.helpers.bad_inputs import cases
from tfvae.cli import commands

# Those that are refused before a model is made, so that they cost little. Unlike stderr itself, the stream of pytest
# cannot print a name that is not UTF-8.
CHEAP = [case for case in cases() if case.kind in ("flag values", "config files") and "udcff" not in case.name][::11]


def test_there_are_enough_bad_inputs_of_each_kind():
    names = [(case.kind, case.name) for case in cases()]
    assert len(names) == len(set(names))
    assert len(names) >= 300


@pytest.mark.parametrize("case", CHEAP, ids=lambda case: case.name)
def test_a_bad_argument_is_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32))
    if case.make is not None:
        case.make(tmp_path)
    before = run_bad_inputs.contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        commands.main(case.arguments)
    assert raised.value.code in case.codes
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert run_bad_inputs.contents(tmp_path) == before


@pytest.mark.slow
def test_no_bad_input_gives_a_traceback_hangs_or_loses_a_file(tmp_path):
    table, failed = run_bad_inputs.run(cases(), tmp_path)
    print(table)
    assert failed == []
