"""The package as it is built, installed and described."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import tfvae

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Run outside the checkout, in an environment that has only the package and its dependencies.
USE = """
    import importlib.metadata, pathlib, sys
    import numpy as np
    import tfvae

    assert pathlib.Path(tfvae.__file__).is_relative_to(sys.prefix), tfvae.__file__
    assert tfvae.__version__ == importlib.metadata.version("tfvae")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    encoder = tfvae.networks.dense_encoder((4,), hidden=(8,))
    decoder = tfvae.networks.dense_decoder(2, (4,), hidden=(8,))
    vae = tfvae.VAE(encoder, decoder, latent_dim=2)
    vae.compile("adam")
    vae.fit(x, epochs=1, verbose=0)
    expected = vae.reconstruct(x)
    tfvae.export.saved_model(vae, "served/tiny")
    tfvae.export.tflite(vae, "served/tiny.tflite")
    for path in ("served/tiny", "served/tiny.tflite"):
        np.testing.assert_allclose(tfvae.export.load(path).reconstruct(x), expected, rtol=1e-4, atol=1e-5)
    print("trained, exported and loaded by", tfvae.__version__)
"""

# A type checker must accept all of it except the one line that is wrong.
TYPED = """
import numpy as np
import tfvae

vae = tfvae.VAE(None, None, latent_dim=2, likelihood=tfvae.likelihoods.Normal(scale="learned"))
values: np.ndarray = vae.log_likelihood(np.zeros((1, 2)), num_samples=10)
shape: tuple[int, ...] = vae.event_shape
exported: tfvae.export.ExportedModel = tfvae.export.load("model.tflite")
tfvae.VAE(None, None, latent_dim="2")
"""


def run(*command, cwd, code=0):
    """Runs a command without PYTHONPATH, so that it does not see the checkout, and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and an sdist, and the copy of the checkout that they were built from."""
    source = tmp_path_factory.mktemp("source") / "tfvae"
    left_out = shutil.ignore_patterns(".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=left_out)
    own = source / "saved_models/own/1/saved_model.pb"
    own.parent.mkdir(parents=True)
    own.touch()
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)
    return folder, source


def files_under(folder, source):
    paths = (path for path in (source / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(source)) for path in paths}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    folder, source = built
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_under("tfvae", source)
    assert "tfvae/py.typed" in names


@pytest.mark.slow
def test_the_sdist_holds_tests_documents_and_the_shipped_model(built):
    folder, source = built
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for part in ("tfvae", "tests", "docs", "examples", "benchmarks", "saved_models/digits_example"):
        expected = files_under(part, source)
        assert expected
        assert expected <= names
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"} <= names
    assert not [name for name in names if name.startswith("saved_models/own")]


@pytest.mark.slow
def test_the_wheel_and_the_sdist_work_where_they_are_installed(built, tmp_path):
    folder, _ = built
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin/python"
    script = tmp_path / "use.py"
    script.write_text(textwrap.dedent(USE))
    for archive, options in ((wheel, []), (sdist, ["--no-deps", "--force-reinstall"])):
        run(python, "-m", "pip", "install", *options, archive, cwd=tmp_path)
        elsewhere = tmp_path / f"with{archive.suffix}"
        elsewhere.mkdir()
        assert run(python, script, cwd=elsewhere).strip().endswith(f"loaded by {tfvae.__version__}")
        assert "train" in run(environment / "bin/tfvae", "--help", cwd=elsewhere)
    (tmp_path / "typed.py").write_text(TYPED)
    mypy = [sys.executable, "-m", "mypy", "--python-executable", python, "--ignore-missing-imports", "typed.py"]
    line, _ = run(*mypy, cwd=tmp_path, code=1).splitlines()
    assert line.startswith(f"typed.py:{len(TYPED.splitlines())}: error: ")
    assert '"latent_dim"' in line


def test_the_documents_name_the_version_of_the_package():
    assert "version" in PROJECT["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (release, date) = re.findall(r"^## (\d+\.\d+\.\d+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert citation["version"] == release
    # Between releases, so that an export says whether a release made it.
    version = Version(tfvae.__version__)
    assert version.is_devrelease == ("## Unreleased" in (ROOT / "CHANGELOG.md").read_text())
    assert version > Version(release) if version.is_devrelease else version == Version(release)
    assert citation["date-released"] == date
    assert citation["license"] == PROJECT["license"]


def test_this_python_is_one_of_those_that_are_named():
    named = [
        line.removeprefix("Programming Language :: Python :: ")
        for line in PROJECT["classifiers"]
        if "Python ::" in line
    ]
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named


def test_libraries_whose_private_names_are_used_have_upper_bounds():
    for name in ("tensorflow", "tensorflow-probability", "keras"):
        (requirement,) = [line for line in PROJECT["dependencies"] if re.match(rf"{name}\b[^-]", line)]
        assert re.search(r">=[\d.]+,<[\d.]+$", requirement), requirement
