"""The order of the data: new in each epoch, the same in every process, with every example once."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfvae.data import epochs

# The first column identifies the row.
X = np.stack([np.arange(20), np.zeros(20)], axis=1)


@pytest.fixture
def seen(known_model):
    """Trains a model, and returns the first column of x in each epoch, batch by batch."""

    def fit(x=X, model=None, **arguments):
        model = known_model(run_eagerly=True) if model is None else model
        rows, elbo_terms = [], type(model).elbo_terms

        def record(x, sampling):
            assert x.dtype == tf.float32
            rows[-1].append(x[:, 0].numpy().astype(int).tolist())
            return elbo_terms(model, x, sampling)

        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: rows.append([]))
        model.elbo_terms = record
        model.fit(x, callbacks=begin, verbose=0, **arguments)
        return rows

    return fit


def flat(rows):
    return [[row for batch in epoch for row in batch] for epoch in rows]


@pytest.fixture(scope="module")
def known(known_model):
    """A model whose learning rate is zero, so that tests can share it, and its steps are traced only once."""
    return known_model()


@pytest.fixture(autouse=True)
def no_epoch():
    yield
    epochs.set_epoch(None)


# Pipelines


def passes(dataset, count):
    return [[value.tolist() for value in dataset.as_numpy_iterator()] for _ in range(count)]


def random_numbers(seed):
    return epochs.ordered(lambda seed: tf.data.Dataset.from_tensors(seed).repeat(2), seed=seed)


def test_a_pass_follows_from_the_seed_and_its_number():
    keras.utils.set_random_seed(1)
    first = passes(random_numbers(3), 3)
    keras.utils.set_random_seed(2)
    assert passes(random_numbers(3), 3) == first
    assert len({str(values) for values in first}) == 3
    assert first != passes(random_numbers(4), 3)
    dataset = random_numbers(3)
    for epoch in (2, 0, 0):
        epochs.set_epoch(epoch)
        assert passes(dataset, 1) == [first[epoch]]
    # Passes made while an epoch is set are not counted.
    epochs.set_epoch(None)
    assert passes(dataset, 3) == first


def test_the_seed_may_be_known_only_when_a_pass_begins():
    seed = [3]
    dataset = random_numbers(lambda: seed[0])
    first = passes(dataset, 1)
    seed[0] = 4
    epochs.set_epoch(0)
    assert first == passes(random_numbers(3), 1)
    assert passes(dataset, 1) == passes(random_numbers(4), 1)


@pytest.mark.parametrize(("num_examples", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 9, [3])])
def test_batches_of_row_numbers(num_examples, batch_size, sizes):
    dataset = epochs.shuffled_batches(num_examples, batch_size, seed=0)
    assert dataset.cardinality() == len(sizes)
    seeds = []
    for _ in range(2):
        batches = list(dataset.as_numpy_iterator())
        assert [len(rows) for rows, _ in batches] == sizes
        assert sorted(np.concatenate([rows for rows, _ in batches])) == list(range(num_examples))
        seeds += [tuple(seed) for _, seed in batches]
    assert len(set(seeds)) == len(seeds)


def test_every_order_is_as_likely_as_any_other():
    dataset = epochs.shuffled_batches(3, 3, seed=0).repeat(600)
    orders = [tuple(rows) for rows, _ in dataset.as_numpy_iterator()]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    # Chi-squared with 5 degrees of freedom exceeds 25 once in 7000 times.
    assert sum((count - 100) ** 2 / 100 for count in counts) < 25


# Arrays in `fit`


def test_each_epoch_has_every_example_once_in_a_new_order(seen):
    rows = seen(batch_size=6, epochs=4)
    assert [[len(batch) for batch in epoch] for epoch in rows] == [[6, 6, 6, 2]] * 4
    assert [sorted(epoch) for epoch in flat(rows)] == [list(range(20))] * 4
    assert len({tuple(epoch) for epoch in [*flat(rows), range(20)]}) == 5


def test_the_order_follows_from_the_seed_when_the_model_was_made(seen, known_model):
    orders = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = known_model(run_eagerly=True)
        # What was drawn in between does not matter.
        keras.utils.set_random_seed(len(orders))
        orders.append(seen(model=model, epochs=2))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


@pytest.mark.slow
def test_fit_that_is_called_again_goes_on_with_new_orders(seen, known_model):
    keras.utils.set_random_seed(1)
    expected = seen(epochs=4)
    keras.utils.set_random_seed(1)
    model = known_model(run_eagerly=True)
    found = seen(model=model) + seen(model=model)
    found += seen(model=model, initial_epoch=1, epochs=2) + seen(model=model, initial_epoch=2, epochs=3)
    assert found == [expected[epoch] for epoch in (0, 1, 2, 3)]


def test_without_shuffle_the_order_is_kept(seen):
    assert flat(seen(batch_size=6, epochs=2, shuffle=False)) == [list(range(20))] * 2


FORMS = {
    "float64": X,
    "float32": X.astype("float32"),
    "uint8": X.astype("uint8"),
    "int64": X.astype("int64"),
    "tensor": tf.constant(X),
    "frame": pd.DataFrame(X, index=range(100, 120)),
    "x": {"x": X, "label": np.ones(3)},
    "one key": {"image": X},
    "memory map": X.view(np.memmap),
}


SOME = ["tensor", "frame", "x"]


@pytest.mark.parametrize(
    "form", [form if form in SOME else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_arrays_of_every_form_are_shuffled(form, seen):
    rows = flat(seen(FORMS[form], epochs=2))
    assert [sorted(epoch) for epoch in rows] == [list(range(20))] * 2
    assert rows[0] != rows[1]


def test_booleans_are_shuffled(seen):
    rows = flat(seen(X > 9, epochs=2))
    assert [sum(epoch) for epoch in rows] == [10, 10]
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ({}, [20]),
        pytest.param({"steps_per_epoch": 4}, [5] * 4, marks=pytest.mark.slow),
        ({"steps_per_epoch": 7}, [3] * 6 + [2]),
        ({"batch_size": 5, "steps_per_epoch": 2}, [5, 5]),
    ],
    ids=str,
)
def test_batches_are_as_large_as_in_keras(arguments, sizes, seen):
    rows = seen(epochs=4, **arguments)
    assert [[len(batch) for batch in epoch] for epoch in rows] == [sizes] * 4
    orders = flat(rows)
    # If an epoch has half of the batches, two epochs make one pass.
    whole = [orders[0] + orders[1], orders[2] + orders[3]] if sum(sizes) < 20 else orders
    assert [sorted(order) for order in whole] == [list(range(20))] * len(whole)
    assert len({tuple(order) for order in orders}) == 4


# Weights and parts


def test_the_last_part_is_held_out_with_its_weights(x, known):
    weights = np.linspace(0, 2, 20)
    history = known.fit(x, sample_weight=weights, validation_split=0.25, epochs=2, verbose=0).history
    expected = known.evaluate(x[15:], sample_weight=weights[15:], verbose=0, return_dict=True)
    assert {name: history[f"val_{name}"] for name in expected} == {
        name: pytest.approx([value] * 2, rel=1e-6) for name, value in expected.items()
    }
    kl = (weights[:15] * x[:15, 1]).sum() / weights[:15].sum()
    assert history["kl"] == pytest.approx([kl] * 2, rel=1e-5)


CLASSES = np.arange(20) % 4


@pytest.mark.parametrize(
    "y",
    [CLASSES, CLASSES[:, None], CLASSES - 0.2, np.eye(4)[CLASSES], pd.Series(CLASSES, index=range(100, 120))],
    ids=["integers", "column", "floats", "one-hot", "series"],
)
def test_classes_weigh_as_in_keras(y, x, known):
    # One of these classes does not occur in the data, and two classes in the data have no weight.
    history = known.fit(x, y, class_weight={1: 3.0, 2: 0.0, 9: 5.0}, batch_size=3, verbose=0).history
    weights = np.array([1.0, 3.0, 0.0, 1.0])[CLASSES]
    elbo = x[:, 0] - x[:, 1]
    assert history["loss"] == pytest.approx([(weights * -elbo).mean()], rel=1e-5)
    assert history["elbo"] == pytest.approx([(weights * elbo).sum() / weights.sum()], rel=1e-5)


def test_what_is_held_out_is_not_weighed_by_its_class(x, known):
    history = known.fit(x, CLASSES, class_weight={1: 3.0}, validation_split=0.25, verbose=0).history
    assert history["val_loss"] == pytest.approx([(x[15:, 1] - x[15:, 0]).mean()], rel=1e-5)


BAD = {
    "y is shorter": (
        {"y": np.ones(19)},
        "`x` and `y` must have the same number of examples. Received: 20 of x, 19 of y",
    ),
    "weights are longer": (
        {"y": np.ones(20), "sample_weight": np.ones(21)},
        "must have the same number of examples. Received: 20 of x, 21 of sample_weight",
    ),
    "nothing is held out": ({"validation_split": 1e-17}, "`validation_split` must leave at least one example"),
    "all is held out": ({"validation_split": 0.99}, "`validation_split` must leave at least one example"),
    "less than nothing is held out": ({"validation_split": -0.5}, "`validation_split` must leave at least one example"),
    "batches of none": ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: batch_size=0"),
    "half batches": ({"batch_size": 2.5}, "`batch_size` must be an integer of at least 1. Received: batch_size=2.5"),
    "two kinds of weights": (
        {"y": CLASSES, "sample_weight": np.ones(20), "class_weight": {0: 1.0}},
        "`class_weight` and `sample_weight`",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments_are_named_before_any_step(kind, x, known_model):
    arguments, message = BAD[kind]
    model = known_model()
    with pytest.raises(ValueError, match=message):
        model.fit(x, verbose=0, **arguments)
    assert model.optimizer.iterations == 0


def test_what_is_read_ahead_is_in_order_and_not_tuned():
    data = epochs.read_ahead(tf.data.Dataset.range(100), lambda i: 2 * i)
    assert not data.options().autotune.enabled
    assert data.cardinality() == 100
    assert [int(value) for value in data] == list(range(0, 200, 2))
