"""A run's folder that is damaged."""

import zipfile

import keras
import numpy as np
import pytest

from tfvae.cli import run_folder

CONFIG = "data: x.npy\nbatch_size: 4\nvalidation_fraction: 0.5\nbinarize: null\nimage_size: null\nseed: 0\n"


@pytest.fixture(scope="module")
def saved(tiny_vae, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    tiny_vae().save(path)
    return path


def without(name):
    """Removes a file from a .keras."""

    def damage(source, target):
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for other in old.namelist():
                if other != name:
                    new.writestr(other, old.read(other))

    return damage


def flipped(at):
    """Flips the bits of a byte, at a share of the length."""

    def damage(source, target):
        content = bytearray(source.read_bytes())
        content[int(at * len(content))] ^= 0xFF
        target.write_bytes(content)

    return damage


DAMAGES = {
    "empty": lambda source, target: target.write_bytes(b""),
    "cut": lambda source, target: target.write_bytes(source.read_bytes()[:2000]),
    "no config.json": without("config.json"),
    "no weights": without("model.weights.h5"),
    "a flipped byte of the weights": flipped(0.6),
    "another model": lambda source, target: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(target),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_is_damaged_is_named(damage, saved, tmp_path):
    DAMAGES[damage](saved, tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"`run` must have .*Received: ") as raised:
        run_folder.load_model(tmp_path)
    assert str(tmp_path / "model.keras") in str(raised.value)


def test_the_data_of_a_run_are_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    np.save("x.npy", np.zeros([6, 2], np.float32))
    assert len(run_folder.held_out(run_folder.load_data(tmp_path))) == 3


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("data: x.npy\n", ""),
        ("data: x.npy\n", "data: [x.npy]\n"),
        ("batch_size: 4\n", "batch_size: many\n"),
        ("image_size: null\n", "image_size: 3\n"),
        ("seed: 0\n", ""),
    ],
)
def test_a_config_of_something_else_is_named(line, wrong, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.replace(line, wrong))
    name = line.split(":")[0]
    with pytest.raises(ValueError, match=f"Received: .*config.yaml, with .*{name}"):
        run_folder.load_data(tmp_path)


@pytest.mark.parametrize(("rows", "rate"), [(360, 0.01), (20, 1 / 21)])
def test_the_rate_is_one_for_which_there_are_enough_rows(tmp_path, x, tiny_vae, rows, rate):
    model = tiny_vae()
    run_folder.calibrate(model, tmp_path, np.resize(x, (rows, 4)))
    assert model.decision.threshold.rate == pytest.approx(rate)
    assert keras.saving.load_model(tmp_path / "model.keras").decision.threshold == model.decision.threshold
