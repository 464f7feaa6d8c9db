"""The benchmark of pictures: its data, and the time of a training that is interrupted."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import pictures


@pytest.fixture
def gray():
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(256, size=(size, 4, 3), dtype=np.uint8) for name, size in (("x_train", 5), ("x_test", 2))
    }


def test_a_file_of_arrays_and_a_folder_of_idx_files_are_read_alike(gray, tmp_path):
    np.savez(tmp_path / "a.npz", y_train=np.zeros(5), **gray)
    for name, file in pictures.IDX_FILES.items():
        content = b"\0\0\x08\x03" + struct.pack(">3i", *gray[name].shape) + gray[name].tobytes()
        path = tmp_path / file
        path.write_bytes(content) if name == "x_test" else path.with_name(f"{file}.gz").write_bytes(
            gzip.compress(content)
        )
    for path in (tmp_path / "a.npz", tmp_path):
        found = pictures.read(path)
        for name in gray:
            np.testing.assert_array_equal(found[name], gray[name][..., np.newaxis])
    (tmp_path / pictures.IDX_FILES["x_test"]).write_bytes(b"\0\0\x0d\x03")
    with pytest.raises(ValueError, match=r"must be a folder of IDX files of bytes\. Received: .*t10k"):
        pictures.read(tmp_path)


def test_pixels_are_drawn_with_their_gray_values_as_probabilities():
    levels = np.array([0, 51, 204, 255], np.uint8)
    binary = pictures.drawn(np.tile(levels, (10_000, 1)), np.random.default_rng(0))
    assert set(np.unique(binary)) == {0, 1}
    # Four standard errors.
    np.testing.assert_allclose(binary.mean(axis=0), levels / 255, atol=4 * 0.4 / 100)
    assert binary[:, 0].max() == 0
    assert binary[:, 3].min() == 1


def test_hours_are_those_of_all_processes_and_each_epoch_is_counted_once(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(pictures.time, "perf_counter", lambda: 3600.0 * next(clock))
    monkeypatch.setattr(pictures.time, "process_time", lambda: 0.0)
    for epochs in ((0, 1), (1, 2)):
        log = pictures.Log(tmp_path / "seconds.json")
        for epoch in epochs:
            log.on_epoch_begin(epoch)
            log.on_epoch_end(epoch, {"loss": 1.0})
    assert log.hours == {"hours": 3.0, "cpu_hours": 0.0}
