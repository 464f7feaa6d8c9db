"""Work that is divided into chunks, and the seed of each chunk."""

import subprocess
import sys

import pytest
import tensorflow as tf

from tfvae import chunks, seeds

SEED = tf.constant([3, 5])


@pytest.mark.parametrize(("length", "size", "expected"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (0, 4, [])])
def test_slices_cover_each_row_once(length, size, expected):
    rows = list(range(length))
    parts = [rows[part] for part in chunks.slices(length, size)]
    assert [row for part in parts for row in part] == rows
    assert [len(part) for part in parts] == expected
    assert [part.stop - part.start for part in chunks.slices(length, size)] == expected


@pytest.mark.parametrize(
    ("budget", "row", "expected"), [(100, 30, 3), (100, 100, 1), (100, 101, 1), (100, 1, 100), (100, 0, 100)]
)
def test_as_many_rows_as_fit_and_at_least_one(budget, row, expected):
    assert chunks.rows_within(budget, row) == expected


def test_chunks_need_no_tensorflow():
    code = "import sys, tfvae.chunks; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def folded(number):
    return tf.random.experimental.stateless_fold_in(SEED, number).numpy().tolist()


def test_each_part_has_the_seed_of_its_number():
    parts = list(seeds.for_each("abc", SEED))
    assert [part for part, _ in parts] == ["a", "b", "c"]
    assert [seed.numpy().tolist() for _, seed in parts] == [folded(0), folded(1), folded(2)]


def test_each_slice_has_the_seed_of_its_start():
    parts = list(seeds.for_slices(7, 3, SEED))
    assert [part for part, _ in parts] == list(chunks.slices(7, 3))
    assert [seed.numpy().tolist() for _, seed in parts] == [folded(0), folded(3), folded(6)]
    assert [(size, seed.numpy().tolist()) for size, seed in seeds.for_draws(7, 3, SEED)] == [
        (3, folded(0)),
        (3, folded(3)),
        (1, folded(6)),
    ]
