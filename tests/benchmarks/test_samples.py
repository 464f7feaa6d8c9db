"""The figures and the table of benchmarks/samples.py; its models are trained by no test but a slow one."""

import importlib
import json
import sys
import types
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("samples")


def test_results_in_the_file_are_not_computed_again(samples, tmp_path, monkeypatch, capsys):
    rows = []
    for method, fids in (("N(0, I)", (4.0, 6.0)), ("mixture", (3.0, 3.0))):
        for seed, fid in enumerate(fids):
            setting = {"data": "digits", "method": method, "seed": seed, "latent_dim": 16, "num_codes": 64}
            figures = {name: value for each in samples.FIGURES for name, value in ((each, fid), (f"{each}_error", 0.5))}
            rows.append({**setting, "steps": 5000, "prior_steps": 3000, **figures, "seconds": 9.6})
    monkeypatch.setattr(samples, "Pictures", lambda source: types.SimpleNamespace(shape=(8, 8, 1)))
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def lines(seeds):
        options = ["digits", "--folder", str(tmp_path), "--seeds", str(seeds), "--json", str(path)]
        monkeypatch.setattr(sys, "argv", ["samples.py", *options, "--methods", "N(0, I)", "mixture"])
        samples.main()
        return capsys.readouterr().out.splitlines()

    # Of one seed the errors are those of the measures, of two those over the seeds.
    assert lines(1)[2].startswith("| N(0, I) | 4.00 ± 0.50 | 1.00 | 4.00 ± 0.50 | 4.000 ± 0.500 |")
    assert lines(2)[2].startswith("| N(0, I) | 5.00 ± 1.00 | 1.00 | 5.00 ± 1.00 |")
    # The mean of 3 / 4 and 3 / 6.
    assert lines(2)[3].startswith("| mixture | 3.00 ± 0.00 | 0.62 |")
    assert lines(2)[3].endswith("| 10 |")
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.slow
def test_models_of_the_folder_are_not_trained_again(samples, tmp_path, monkeypatch):
    data = samples.Pictures("digits")
    setting = {"data": "digits", "seed": 0, "latent_dim": 2, "num_codes": 4, "steps": 10, "prior_steps": 10}
    known, given = (samples.measure(data, tmp_path, {**setting, "method": m}) for m in ("training data", "N(0, I)"))
    # The training data are those from which the reference was split at random.
    assert abs(known["fid_without_bias"]) < 4 * known["fid_without_bias_error"]
    assert given["fid"] > 10 * known["fid"]
    monkeypatch.setattr(samples, "vae", None)
    assert samples.measure(data, tmp_path, {**setting, "method": "N(0, I)"})["fid"] == given["fid"]
    assert samples.measure(data, tmp_path, {**setting, "method": "reconstructions"})["recall"] < known["recall"]
