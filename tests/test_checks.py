"""The checks of arguments: valid values pass unchanged, and errors name the argument that is wrong."""

import re

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfvae import checks


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[1, 2], [3, 4]], np.int64),
        ([[1.0, 2.0]], np.float64),
        (np.ones((2, 3), np.float32), np.float32),
        (np.ones((2, 3), np.float16), np.float16),
        (np.ones((2, 3), np.uint8), np.uint8),
        (np.ones((2, 3), bool), np.bool_),
        (tf.ones((2, 3)), np.float32),
        (tf.ones((2, 3), tf.bfloat16), np.float32),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_to_numpy_keeps_values_and_every_dtype_but_bfloat16(value, dtype):
    array = checks.to_numpy(value)
    assert type(array) is np.ndarray
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.asarray(value))


def test_to_numpy_does_not_copy_an_array():
    array = np.ones((2, 3))
    assert checks.to_numpy(array) is array


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64, bool])
def test_what_is_masked_of_an_array_is_missing(dtype):
    values = np.array([[1, 0], [1, 1]], dtype)
    array = checks.to_numpy(np.ma.masked_array(values, [[False, True], [False, False]]))
    np.testing.assert_array_equal(array, [[1.0, np.nan], [1.0, 1.0]])
    assert type(array) is np.ndarray
    assert array.dtype == np.result_type(dtype, np.float32)
    whole = checks.to_numpy(np.ma.masked_array(values))
    assert type(whole) is np.ndarray
    assert whole.dtype == dtype


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], "`z` must be one numeric array or tensor. Received: list"),
        (["a", "b"], "`z` must hold real numbers. Received: z of dtype <U1"),
        ([b"a"], "`z` must hold real numbers. Received: z of dtype |S1"),
        (None, "`z` must hold real numbers. Received: z of dtype object"),
        (
            np.array([[1.5, True]], object),
            '`z` must hold real numbers; pass a data frame itself instead of its values, or x.astype("float32"). '
            "Received: z of dtype object",
        ),
        (np.zeros(2, [("a", "f4")]), "numbers; pass pandas.DataFrame(x) for an array with named columns. Received: z"),
        ([1j], "`z` must hold real numbers. Received: z of dtype complex128"),
        (np.array(["2026-01-01"], "datetime64[D]"), "`z` must hold real numbers. Received: z of dtype datetime64[D]"),
        (np.zeros((0, 3)), "`z` must hold at least one example. Received: z of shape (0, 3)"),
        ([], "`z` must hold at least one example. Received: z of shape (0,)"),
    ],
    ids=["ragged", "strings", "bytes", "None", "objects", "records", "complex", "dates", "no rows", "empty list"],
)
def test_to_numpy_names_the_argument_and_what_it_received(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.to_numpy(value, "z")


def test_to_numpy_calls_the_argument_x_by_default():
    with pytest.raises(ValueError, match="`x` must hold real numbers"):
        checks.to_numpy("text")


@pytest.mark.parametrize(("shape", "event"), [((5, 2, 3), (2, 3)), ((1, 4), (4,)), ((7,), ())])
def test_check_shape_takes_any_number_of_rows(shape, event):
    checks.check_shape(np.zeros(shape), event)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 3, 2), "`z` must have the shape [N, 2, 3]. Received: z of shape [5, 3, 2]"),
        ((5, 2, 3, 1), "`z` must have the shape [N, 2, 3]. Received: z of shape [5, 2, 3, 1]"),
        ((2, 3), "`z` must have the shape [N, 2, 3]; add the batch axis. Received: z of shape [2, 3]"),
        ((), "`z` must have the shape [N, 2, 3]. Received: z of shape []"),
    ],
)
def test_check_shape_says_what_was_expected(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.check_shape(np.zeros(shape), (2, 3), "z")


def test_check_shape_of_scalars_asks_for_the_batch_axis():
    with pytest.raises(
        ValueError, match=re.escape("must have the shape [N]; add the batch axis. Received: x of shape")
    ):
        checks.check_shape(np.zeros(()), ())


def test_check_same_length_counts_rows_and_nothing_else():
    checks.check_same_length(x=np.zeros((3, 2)), epsilon=np.zeros((3, 5)))
    checks.check_same_length(x=np.zeros((3, 2)))
    with pytest.raises(
        ValueError, match=r"^`x` and `epsilon` must have the same number of examples\. Received: 3 of x, 2 of epsilon$"
    ):
        checks.check_same_length(x=np.zeros((3, 2)), epsilon=np.zeros((2, 3)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_finite_counts_and_locates(wrong, dtype):
    x = np.zeros((4, 2, 3), dtype)
    x[2, 1, 0] = x[3, 0, 0] = wrong
    message = "`z` must be finite. Received: 2 values that are NaN or infinite, the first at index [2, 1, 0]"
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.check_finite(x, "z")


def test_check_finite_passes_the_largest_floats_integers_and_booleans():
    for x in (np.full((2, 2), np.finfo(np.float32).max), np.ones((2, 2), int), np.ones((2, 2), bool)):
        checks.check_finite(x)


def test_find_gives_the_first_index_or_none():
    x = np.arange(24).reshape(2, 3, 4)
    assert checks.find(x, lambda part: part >= 17) == (1, 1, 1)
    assert checks.find(x, lambda part: part > 23) is None
    assert all(type(index) is int for index in checks.find(x, lambda part: part == 0))


@pytest.mark.parametrize("elements", [1, 5, 12, 13, 1000])
def test_what_is_checked_in_parts_has_the_same_answer(monkeypatch, elements):
    monkeypatch.setattr(checks, "_CHECK_ELEMENTS", elements)
    sizes = []

    def is_seven(part):
        sizes.append(len(part))
        return part == 7

    x = np.zeros((10, 3, 2))
    x[8, 2, 1] = x[9, 0, 0] = 7
    assert checks.find(x, is_seven) == (8, 2, 1)
    assert max(sizes) == min(10, max(1, elements // 6))
    x[8, 2, 1] = x[9, 0, 0] = np.nan
    with pytest.raises(ValueError, match=re.escape("2 values that are NaN or infinite, the first at index [8, 2, 1]")):
        checks.check_finite(x)


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(3)])
def test_positive_integer_gives_an_int(value):
    result = checks.positive_integer("n", value)
    assert type(result) is int
    assert result == value


@pytest.mark.parametrize("value", [0, -1, True, False, 1.0, np.float32(2), "1", None, np.array([1])])
def test_positive_integer_names_the_argument_and_the_value(value):
    message = f"`n` must be an integer of at least 1. Received: n={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.positive_integer("n", value)


def test_positive_integer_refuses_what_tensorflow_probability_would_cut_to_32_bits():
    assert checks.positive_integer("n", 2**31 - 1) == 2**31 - 1
    with pytest.raises(ValueError, match=r"^`n` must be an integer of at most 2147483647. Received: n=4294967297$"):
        checks.positive_integer("n", 2**32 + 1)


def test_check_elements_says_what_is_expected_and_names_the_first_that_is_wrong():
    x = np.arange(6, dtype=np.float32).reshape(3, 2) / 8
    checks.check_elements(x, lambda part: part > 1, "be at most 1")
    message = "`code` must be at most 0.3. Received: code with the value 0.375 at index [1, 1]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checks.check_elements(x, lambda part: part > 0.3, "be at most 0.3", "code")


@pytest.mark.parametrize(
    ("values", "received"),
    [
        ([0, 1, 3], "code with the value 3 at index [2]"),
        ([0, -1], "code with the value -1 at index [1]"),
        ([0.0, 1.0], "code of dtype float64"),
    ],
)
def test_check_integers_takes_integers_of_a_range_alone(values, received):
    checks.check_integers(np.array([0, 1, 2]), 0, 3, "hold codes", "code")
    with pytest.raises(ValueError, match=f"^`code` must hold codes. Received: {re.escape(received)}$"):
        checks.check_integers(np.array(values), 0, 3, "hold codes", "code")


@pytest.mark.parametrize("value", [1, 0, None, "True", np.bool_(True)])
def test_boolean_is_true_or_false_alone(value):
    assert checks.boolean("flag", True) is True
    assert checks.boolean("flag", False) is False
    with pytest.raises(ValueError, match=rf"^`flag` must be True or False. Received: flag={re.escape(repr(value))}$"):
        checks.boolean("flag", value)


@pytest.mark.parametrize(
    ("frame", "array"),
    [
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]}), np.array([[1, 0.5, 1], [2, 1.5, 0]])),
        (pd.DataFrame({"a": [1, 2], "b": [True, False]}), np.array([[1, 1], [2, 0]])),
        (pd.DataFrame({"a": [True, False]}), np.array([[True], [False]])),
        (pd.DataFrame({"a": np.uint8([1, 2]), "b": np.uint8([3, 4])}), np.uint8([[1, 3], [2, 4]])),
        (pd.DataFrame({"a": [1, None], "b": [None, True]}).convert_dtypes(), np.array([[1, np.nan], [np.nan, 1]])),
        (pd.DataFrame({"a": [1.5, None]}, dtype="Float64"), np.array([[1.5], [np.nan]])),
        (pd.DataFrame({"a": pd.array([0, 1], pd.SparseDtype(int))}), np.array([[0], [1]])),
        (pd.Series([1, None], dtype="Int64"), np.array([1.0, np.nan])),
    ],
)
def test_a_data_frame_becomes_an_array_of_the_common_dtype(frame, array):
    converted = checks.to_numpy(frame)
    assert converted.dtype == array.dtype
    np.testing.assert_array_equal(converted, array)


@pytest.mark.parametrize(
    "value",
    [list(range(10**6)), "a\n" * 10**6, np.arange(10**6), {str(i): i for i in range(10**6)}, pd.Series([1] * 999)],
)
def test_a_message_shows_little_of_a_large_value(value):
    text = checks.shown(value)
    assert len(text) <= 200
    assert "\n" not in text


def test_a_message_shows_a_small_value_whole():
    assert [checks.shown(value) for value in (0, "a", None, [1, 2], (0.5,))] == ["0", "'a'", "None", "[1, 2]", "(0.5,)"]
    assert checks.shown_names("abc") == "a, b, c"
    assert checks.shown_names(range(11)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (11 in all)"


def test_memory_is_checked_against_the_machine():
    checks.check_memory(10**6, "x", "an array")
    with pytest.raises(ValueError, match=r"`x` must fit in memory twice, .* Received: an array, 1e\+06 GB$"):
        checks.check_memory(10**15, "x", "an array")
