"""The data that `fit` and `evaluate` accept, and those that they reject before the first step."""

import re
import types

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.batches import Batches, BatchesWithoutLength, dataset, generator
from tests.helpers.following import Following
from tfvae import checks
from tfvae.likelihoods import Bernoulli, ContinuousBernoulli

Y = np.arange(20, dtype="float32")


SOURCES = {
    "array": lambda x: {"x": x},
    "float64 array": lambda x: {"x": x.astype("float64")},
    "array and y": lambda x: {"x": x, "y": Y},
    "tensor": lambda x: {"x": tf.constant(x)},
    "dictionary": lambda x: {"x": {"image": x}},
    "data frame": lambda x: {"x": pd.DataFrame(x).convert_dtypes()},
    "sparse tensor": lambda x: {"x": tf.sparse.from_dense(x)},
    "AnnData": lambda x: {"x": types.SimpleNamespace(X=scipy.sparse.csr_matrix(x), obs_names=list("x"), shape=x.shape)},
    "dataset": lambda x: {"x": dataset(x)},
    "dataset (x,)": lambda x: {"x": dataset((x,))},
    "dataset (x, y)": lambda x: {"x": dataset((x, Y))},
    "dataset (x, y, sample_weight)": lambda x: {"x": dataset((x, Y, np.ones(20)))},
    "dataset with the key x": lambda x: {"x": dataset({"x": x, "label": Y})},
    "dataset with one key": lambda x: {"x": dataset({"image": x})},
    "dataset ({...}, y), cached": lambda x: {"x": dataset(({"image": x}, Y)).cache()},
    "PyDataset (x,)": lambda x: {"x": Batches(x)},
    "PyDataset (x, y)": lambda x: {"x": Batches(x, Y)},
    "PyDataset without a length": lambda x: {"x": BatchesWithoutLength(x)},
    "generator": lambda x: {"x": generator(x), "steps_per_epoch": 5},
}


@pytest.fixture(scope="module")
def untrained(tiny_vae):
    """A VAE that refuses all data of the tests, so that they can share it."""
    return tiny_vae()


@pytest.fixture(scope="module")
def known(known_model):
    """A model whose learning rate is zero, so that tests can share it, and its steps are traced only once."""
    return known_model()


@pytest.fixture(scope="module")
def array_training():
    """A model, its initial weights, x, and the history and the weights after one epoch with x as an array."""
    model = Following()
    model.compile(keras.optimizers.SGD(0.1))
    start = model.get_weights()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    history = model.fit(x, batch_size=4, shuffle=False, verbose=0).history
    return model, start, x, history, model.get_weights()


def but_slow(kinds, slow):
    """Cases, some of which are slow, because they are read by the same code as others."""
    return [pytest.param(kind, marks=pytest.mark.slow) if kind in slow else kind for kind in kinds]


LIKE_OTHERS = [
    "float64 array",
    "dataset (x,)",
    "dataset (x, y)",
    "dataset with one key",
    "PyDataset (x, y)",
    "sparse tensor",
    "AnnData",
    "array and y",
    "dataset with the key x",
]


@pytest.mark.parametrize("source", but_slow(SOURCES, LIKE_OTHERS))
def test_every_source_trains_as_the_array_does_with_no_batch_lost(source, array_training):
    model, start, x, expected_history, expected = array_training
    model.set_weights(start)

    arguments = SOURCES[source](x)
    batch_size = 4 if isinstance(arguments["x"], dict) or hasattr(arguments["x"], "shape") else None
    history = model.fit(**arguments, batch_size=batch_size, shuffle=False, verbose=0).history

    np.testing.assert_allclose(history["loss"], expected_history["loss"], rtol=1e-6)
    for weight, expected_weight in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, expected_weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("source", ["array and y", "dataset (x, y)", "PyDataset (x,)", "generator"])
def test_evaluate_takes_every_source(source, x, known):
    arguments = SOURCES[source](x)
    arguments["steps"] = arguments.pop("steps_per_epoch", None)
    kl = known.evaluate(**arguments, verbose=0, return_dict=True)["kl"]
    assert kl == pytest.approx(x[:, 1].mean(), rel=1e-5)


def test_a_generator_of_two_epochs_gives_every_batch_once(x, known):
    data = generator(np.concatenate([x, x[:4]]))
    history = known.fit(data, steps_per_epoch=3, epochs=2, verbose=0).history
    expected = [x[:12, 1].mean(), np.concatenate([x[12:, 1], x[:4, 1]]).mean()]
    np.testing.assert_allclose(history["kl"], expected, rtol=1e-5)


VALIDATION = {
    "array": lambda x: {"validation_data": x},
    "(x, y)": lambda x: {"validation_data": (x, Y)},
    "[x, y]": lambda x: {"validation_data": [x, Y]},
    "dataset": lambda x: {"validation_data": dataset(x)},
    "PyDataset": lambda x: {"validation_data": Batches(x, Y)},
    "generator": lambda x: {"validation_data": generator(x), "validation_steps": 5},
}


@pytest.mark.parametrize("kind", but_slow(VALIDATION, ["array", "(x, y)", "[x, y]", "PyDataset"]))
def test_validation_data_give_what_evaluate_gives(kind, x, array_training):
    model, start, *_ = array_training
    model.set_weights(start)
    history = model.fit(x[:8], verbose=0, **VALIDATION[kind](x)).history
    expected = model.evaluate(x, verbose=0, return_dict=True)
    assert {name: history[f"val_{name}"][-1] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_validation_split_holds_out_the_end_of_the_array(x, known):
    history = known.fit(x, validation_split=0.25, verbose=0).history
    assert history["kl"] == pytest.approx([x[:15, 1].mean()], rel=1e-5)
    assert history["val_kl"] == pytest.approx([x[15:, 1].mean()], rel=1e-5)


def with_value(value, row):
    x = np.random.default_rng(0).uniform(0, 1, size=(20, 4)).astype("float32")
    x[row, 3] = value
    return x


GOOD = with_value(0.5, 0)
BAD = {
    "wrong event": (GOOD[:, :3], r"`x` must have the shape \[N, 4\].*Received: x of shape \[20, 3\]"),
    "no batch axis": (GOOD[0], r"`x` must have the shape \[N, 4\]; add the batch axis.*shape \[4\]"),
    "a number": (np.float32(1), r"`x` must have the shape \[N, 4\]"),
    "NaN in the first row": (with_value(np.nan, 0), r"`x` must be finite.*1 values.*index \[0, 3\]"),
    "NaN in the last row": (with_value(np.nan, -1), r"`x` must be finite.*1 values.*index \[19, 3\]"),
    "-inf in the last row": (with_value(-np.inf, -1), r"`x` must be finite.*index \[19, 3\]"),
    "integers": (np.ones((20, 4), "uint8"), r"`x` must hold floats under the Normal.*Received: x of dtype uint8"),
    "empty": (GOOD[:0], r"`x` must hold at least one example.*shape \(0, 4\)"),
    "strings": (np.full((20, 4), "a"), r"`x` must hold real numbers.*dtype <U1"),
    "ragged": ({"x": [[1.0], [1.0, 2.0]]}, r"`x` must be one (numeric )?array or tensor.*Received: a? ?list"),
}


def assert_refused(vae, message, act):
    """Checks that `act` raises an error with the message, and that no step was taken and no weight was made."""
    vae.compile(keras.optimizers.SGD(0.1))
    before = [weight.numpy() for weight in vae.trainable_weights]
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "Received: " in str(error.value)
    assert vae.optimizer.iterations == 0
    for weight, weight_before in zip(vae.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, weight_before)


@pytest.mark.parametrize("kind", BAD)
def test_bad_arrays_are_refused_by_fit_and_evaluate_before_any_step(kind, untrained):
    data, message = BAD[kind]
    assert_refused(untrained, message, lambda: untrained.fit(data, verbose=0))
    assert_refused(untrained, message, lambda: untrained.evaluate(data, verbose=0))


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "ragged"])
def test_bad_arrays_are_refused_by_encode_reconstruct_and_log_likelihood(kind, untrained):
    data, message = BAD[kind]
    for method in (untrained.encode, untrained.reconstruct, untrained.log_likelihood):
        assert_refused(untrained, message, lambda method=method: method(data))


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "ragged"])
def test_bad_arrays_are_refused_by_predict_and_by_single_batches(kind, untrained):
    data, message = BAD[kind]
    for method in (lambda x: untrained.predict(x, verbose=0), untrained.train_on_batch, untrained.test_on_batch):
        assert_refused(untrained, message, lambda method=method: method(data))


def test_a_single_batch_builds_the_model_first(x, lazy_vae):
    vae = lazy_vae()
    vae.compile()
    found = vae.test_on_batch(x, return_dict=True)
    # Different noise moves the bound of 20 examples by less than a nat; a sum instead of a mean would be 20 times it.
    assert found["elbo"] == pytest.approx(vae.evaluate(x, verbose=0, return_dict=True)["elbo"], abs=1.5)


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("empty", "a number", "ragged")])
def test_a_bad_first_batch_of_a_dataset_is_refused_before_any_step(kind, untrained):
    data, message = BAD[kind]
    bad_batch = tf.data.Dataset.from_tensors(data)
    message = message.removesuffix(".*dtype <U1")
    assert_refused(untrained, message, lambda: untrained.fit(bad_batch, verbose=0))
    assert_refused(
        untrained, message, lambda: untrained.fit((batch for batch in bad_batch), steps_per_epoch=1, verbose=0)
    )


@pytest.mark.parametrize("kind", ["NaN in the last row", "wrong event"])
def test_datasets_are_checked_by_encode_reconstruct_and_log_likelihood(kind, untrained):
    data, message = BAD[kind]
    for method in (untrained.encode, untrained.reconstruct, untrained.log_likelihood):
        assert_refused(untrained, message, lambda method=method: method(tf.data.Dataset.from_tensors(data)))


@pytest.mark.parametrize("kind", ["no batch axis", "a number"])
def test_data_without_a_batch_axis_are_refused_by_a_model_that_is_not_built(kind, lazy_vae):
    vae = lazy_vae()
    assert_refused(vae, r"`x` must have .*Received: x of shape \[4?\]", lambda: vae.fit(BAD[kind][0], verbose=0))


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        (Bernoulli, 0.5, r"only 0 and 1 under the Bernoulli.*ContinuousBernoulli.*Received: x with the value 0.5"),
        (Bernoulli, 255, r"only 0 and 1 under the Bernoulli.*Received: x with the value 255"),
        (ContinuousBernoulli, 1.5, r"in \[0, 1\] under the ContinuousBernoulli.*Received: x with the value 1.5"),
        (ContinuousBernoulli, -0.5, r"in \[0, 1\] under the ContinuousBernoulli.*Received: x with the value -0.5"),
    ],
)
@pytest.mark.parametrize("row", [0, -1])
def test_values_the_likelihood_cannot_give_are_refused(likelihood, value, message, row, tiny_vae):
    x = np.zeros((20, 4), "float32")
    x[row, 2] = value
    vae = tiny_vae(likelihood=likelihood())
    assert_refused(vae, message, lambda: vae.fit(x, verbose=0))
    assert_refused(vae, message, lambda: vae.fit(tf.data.Dataset.from_tensors(x), verbose=0))


@pytest.mark.parametrize("likelihood", [Bernoulli, ContinuousBernoulli])
def test_zeros_and_ones_of_any_dtype_are_good_for_both_bernoulli_likelihoods(likelihood, quiet_vae):
    vae = quiet_vae(likelihood=likelihood())
    vae.compile(run_eagerly=True)
    x = np.arange(20).reshape(5, 4) % 2
    values = [vae.evaluate(x.astype(dtype), verbose=0) for dtype in ("uint8", "bool", "float64")]
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, [values[0]] * 3, rtol=1e-6)


BAD_SOURCES = {
    "nothing": (lambda x: {}, "`x` must hold at least one batch"),
    "empty dataset": (lambda x: {"x": dataset(x).take(0)}, "`x` must hold at least one batch"),
    "empty PyDataset": (lambda x: {"x": Batches(x[:0])}, "`x` must hold at least one batch"),
    "empty generator": (lambda x: {"x": generator(x[:0])}, "`x` must hold at least one batch"),
    "list of arrays": (lambda x: {"x": [x, x]}, r"`x` must be one array.*Columns. Received: a list of 2 of"),
    "many arrays": (
        lambda x: {"x": [x] * 2000},
        r"`x` must be one array.*Received: a list of 2000 of the shapes.{,60}$",
    ),
    "list of rows": (lambda x: {"x": x.tolist()}, r"`x` must be one array.*Received: a list of 20$"),
    "dataset of 4 parts": (lambda x: {"x": (batch for batch in [(x,) * 4])}, "A batch must be x, .*Received: 4 parts"),
    "tuple of arrays": (lambda x: {"x": (x, x)}, "`x` must be one array or tensor.*Received: a tuple of 2"),
    "dataset ((x, x), y)": (lambda x: {"x": dataset(((x, x), Y))}, "`x` must be one array .*Received: a tuple of 2"),
    "two unknown keys": (lambda x: {"x": dataset({"b": x, "a": Y})}, r'key "x" or one entry.*keys \[\'a\', \'b\'\]'),
    "validation array": (lambda x: {"x": x, "validation_data": x[:, :3]}, "validation_data.*shape"),
    "validation (x, y)": (lambda x: {"x": x, "validation_data": (x * np.nan, Y)}, "validation_data.*must be finite"),
    "validation dataset": (lambda x: {"x": x, "validation_data": dataset(x * np.inf)}, "validation_data.*be finite"),
    "endless dataset": (lambda x: {"x": dataset(x).repeat()}, "`x` must be a dataset that ends.*`steps_per_epoch`"),
    "endless validation": (
        lambda x: {"x": x, "validation_data": dataset(x).repeat()},
        "`validation_data` must be a dataset that ends.*`validation_steps`",
    ),
    "empty validation array": (lambda x: {"x": x, "validation_data": x[:0]}, "validation_data.*at least one"),
    "empty validation tuple": (lambda x: {"x": x, "validation_data": ()}, "validation_data"),
    "empty validation dataset": (lambda x: {"x": x, "validation_data": dataset(x[:0])}, "`validation_data` must hold"),
}


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_bad_sources_are_refused_before_any_step_and_by_the_name_of_the_argument(kind, x, untrained):
    arguments, message = BAD_SOURCES[kind]
    assert_refused(untrained, message, lambda: untrained.fit(**arguments(x), verbose=0))


@pytest.mark.parametrize("row", [0, 4])
def test_an_array_too_large_to_check_at_once_is_checked_whole_and_described_whole(row, untrained, monkeypatch):
    monkeypatch.setattr(checks, "_CHECK_ELEMENTS", 8)
    x = GOOD.copy()
    x[4 * row, 1] = x[17, 2] = np.nan
    message = re.escape(f"2 values that are NaN or infinite, the first at index [{4 * row}, 1]")
    assert_refused(untrained, message, lambda: untrained.fit(x, verbose=0))


def test_whole_numbers_give_a_warning_only_when_all_are_whole(tiny_vae, monkeypatch, recwarn):
    monkeypatch.setattr(checks, "_CHECK_ELEMENTS", 8)
    x = np.full((20, 4), 3.0, "float32")
    with pytest.warns(UserWarning, match=r"All values of `x` are whole numbers.*maximum of 3") as warnings:
        tiny_vae().check_data(x)
    assert len(warnings) == 1
    x[-1] = 0.5
    recwarn.clear()
    tiny_vae().check_data(x)
    assert not list(recwarn)


@pytest.mark.parametrize("batch_size", [0, 1.5, True, None])
def test_a_batch_size_that_is_no_positive_integer_is_refused(batch_size, x, tiny_vae):
    with pytest.raises(ValueError, match=f"`batch_size` must be an integer of at least 1. Received: .*{batch_size}"):
        tiny_vae().encode(x, batch_size=batch_size)


def nan_in_batch(number, x):
    """5 batches of 4 examples, with a NaN in one of them."""
    x = x.copy()
    x[4 * number] = np.nan
    return tf.data.Dataset.from_tensor_slices(x).batch(4)


def test_terminate_on_nan_stops_at_the_batch_and_may_be_given_without_a_list(x, known_model):
    model = known_model()
    with pytest.warns(UserWarning, match="The loss was nan in epoch 1"):
        model.fit(nan_in_batch(2, x), callbacks=keras.callbacks.TerminateOnNaN(), verbose=0)
    assert model.optimizer.iterations == 3


@pytest.mark.parametrize("kind", but_slow(["none", "list", "tuple", "CallbackList"], ["none", "list", "tuple"]))
def test_each_epoch_that_is_not_finite_gives_one_warning_in_every_fit(kind, x, known_model):
    model = known_model()
    make = {"none": lambda: None, "list": list, "tuple": tuple}
    make["CallbackList"] = lambda: keras.callbacks.CallbackList(add_history=True, model=model)
    callbacks = make[kind]()
    for _ in range(2):
        with pytest.warns(UserWarning, match="The loss was nan in epoch.*clipnorm.*TerminateOnNaN") as caught:
            model.fit(nan_in_batch(3, x), epochs=2, callbacks=callbacks, verbose=0)
        ours = [str(warning.message)[:32] for warning in caught if "The loss was" in str(warning.message)]
        assert ours == ["The loss was nan in epoch 1. Try", "The loss was nan in epoch 2. Try"]
    assert kind != "list" or callbacks == []


# Sample weights

WEIGHTS = np.linspace(0.0, 3.0, 20)
WEIGHTED = {
    "array and y": lambda x: {"x": x, "y": np.zeros(20), "sample_weight": WEIGHTS},
    "array alone": lambda x: {"x": x, "sample_weight": WEIGHTS},
    "column of weights": lambda x: {"x": x, "y": np.zeros(20), "sample_weight": WEIGHTS[:, None]},
    "dataset": lambda x: {"x": tf.data.Dataset.from_tensor_slices((x, np.zeros(20), WEIGHTS)).batch(3)},
    "class_weight": lambda x: {"x": x, "y": np.arange(20), "class_weight": dict(enumerate(WEIGHTS))},
}


@pytest.mark.parametrize("kind", but_slow(WEIGHTED, ["array and y", "array alone", "column of weights"]))
def test_sample_weights_weigh_the_loss_and_the_metrics(kind, x, known):
    arguments = WEIGHTED[kind](x)
    elbo = x[:, 0] - x[:, 1]
    expected = {
        "loss": (WEIGHTS * -elbo).sum() / 20,
        "elbo": (WEIGHTS * elbo).sum() / WEIGHTS.sum(),
        "reconstruction_log_likelihood": (WEIGHTS * x[:, 0]).sum() / WEIGHTS.sum(),
        "kl": (WEIGHTS * x[:, 1]).sum() / WEIGHTS.sum(),
    }
    batch_size = None if kind == "dataset" else 3
    history = known.fit(**arguments, batch_size=batch_size, verbose=0).history
    assert {name: values[0] for name, values in history.items()} == pytest.approx(expected, rel=1e-5)
    if kind != "class_weight":
        found = known.evaluate(**arguments, batch_size=batch_size, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-5)


def test_evaluate_takes_weights_by_position_without_y(x, known):
    loss = known.evaluate(x, None, 20, 0, WEIGHTS)[0]
    assert loss == pytest.approx((WEIGHTS * (x[:, 1] - x[:, 0])).mean(), rel=1e-5)


def test_class_weight_without_classes_is_refused(x, known):
    with pytest.raises(ValueError, match=r"`class_weight` needs the classes as `y`\. Received: y=None"):
        known.fit(x, class_weight={0: 1.0}, verbose=0)


@pytest.mark.parametrize("y", [np.zeros(20), None], ids=["y", "no y"])
def test_validation_data_may_have_weights(y, x, known):
    history = known.fit(x, validation_data=(x, y, WEIGHTS), verbose=0).history
    assert history["val_loss"][0] == pytest.approx((WEIGHTS * (x[:, 1] - x[:, 0])).mean(), rel=1e-5)


def test_weights_of_zero_leave_the_gradient_of_the_others_over_the_whole_batch(x):
    whole, half = Following(), Following()
    half.set_weights(whole.get_weights())
    kept = np.arange(20) % 2 == 0
    whole.compile(keras.optimizers.SGD(0.2))
    whole.fit(x, kept, sample_weight=kept * 1.0, batch_size=20, verbose=0)
    half.compile(keras.optimizers.SGD(0.1))
    half.fit(x[kept], batch_size=10, verbose=0)
    for weight, expected in zip(whole.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)
