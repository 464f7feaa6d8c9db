"""Tables and data frames: no row, no column and no meaning is lost without a word."""

import builtins
import types
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tfvae.data import load, read, tables

FRAME = pd.DataFrame({"i": np.arange(10) % 3, "f": np.linspace(0, 1, 10), "b": np.arange(10) % 2 == 0})


def rows(dataset):
    return np.concatenate(list(dataset.as_numpy_iterator()))


def refused(message, source):
    with pytest.raises(ValueError, match=message) as error:
        read(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "5.1,3.5\n4.9,3.0\n",
        "5,3\n4,3\n",
        "nan,1\n2,3\n",
        "True,False\nTrue,True\n",
        "0,2,1\n1,1,1\n",
        ",1.5\n2,3\n",
        "1\n2\n",
    ],
)
def test_a_csv_without_a_header_loses_no_row(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    refused(r"first row holds names; pandas.read_csv.* Received: source='.*a.csv' with the", tmp_path / "a.csv")


@pytest.mark.parametrize("columns", [["a", "b", "c"], ["2019", "b", "c"]])
def test_names_are_names_even_if_some_are_numbers(tmp_path, columns):
    FRAME.set_axis(columns, axis=1).to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_array_equal(read(tmp_path / "a.csv").train, FRAME.to_numpy(float))


def test_the_numbers_that_pandas_gives_for_names_are_names_with_a_warning(tmp_path):
    pd.DataFrame(FRAME.to_numpy(float)).to_csv(tmp_path / "a.csv", index=False)
    with pytest.warns(UserWarning, match=r"The first row, 0, 1, 2, is read as names: '.*a.csv'"):
        np.testing.assert_array_equal(read(tmp_path / "a.csv").train, FRAME.to_numpy(float))


def test_an_index_without_a_name_is_left_out_with_a_warning(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv")
    pd.DataFrame(FRAME.to_numpy(float), index=range(1, 11)).to_csv(tmp_path / "b.csv")
    for source in (tmp_path / "a.csv", tmp_path / "b.csv", pd.read_csv(tmp_path / "a.csv")):
        with pytest.warns(UserWarning, match=r"The first column has no name and counts the rows: it is left out"):
            np.testing.assert_array_equal(read(source).train, FRAME.to_numpy(float))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n4,5,6\n", "a name for each column. Received: source='.*a.csv', whose rows have more fields than"),
        ("a,b\n1,2\n4,5,6\n", "Received: source='.*a.csv': .*Expected 2 fields in line 3, saw 3"),
        (",a\n3,1\n7,2\n", r"to_csv\(index=False\) .* Received: source='.*a.csv' without a name for the columns 1$"),
        ("a,,c\n3,1,2\n7,2,3\n", "a name for each column.* without a name for the columns 2$"),
        (
            "a,b\n1,2\n3\n",
            r"missing values: .*fillna.*likelihoods.Missing. Received: source='.*a.csv', missing in the columns b$",
        ),
        ("d,v\n2026-01-01,1\n2026-01-02,2\n", r"pandas.to_numeric.* the non-numeric columns d \(str\)$"),
        ("a,b\n", r"with rows and columns. Received: source='.*a.csv' of shape \(0, 2\)"),
        ("1,2\n", "first row holds names"),
        ("a;b\n1,5;2,5\n", r"separated by commas; pandas.* seems to be separated by ';'$"),
        ("1\t2\n3\t4\n", r"seems to be separated by '.*t'$"),
    ],
)
def test_what_a_csv_would_lose_is_told(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    refused("`source` must be a .*table.*" + message, tmp_path / "a.csv")


def test_a_comma_at_the_end_of_each_row_is_no_column(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2,\n3,4,\n")
    np.testing.assert_array_equal(read(tmp_path / "a.csv").train, [[1, 2], [3, 4]])


COLUMNS = {
    "t": (pd.to_timedelta(np.arange(10), unit="s"), r"column.dt.total_seconds\(\).* non-numeric columns t \(time"),
    "d": (pd.date_range("2026-01-01", periods=10), r"column.min\(\)\).dt.total_seconds\(\).* columns d \(date"),
    "z": (pd.date_range("2026-01-01", periods=10, tz="UTC"), r"dates into numbers.* columns z \(date"),
    "c": (pd.Categorical(list("ab") * 5), r"\.cat\.codes.* columns c \(category\)$"),
    "s": (list("ab") * 5, r"pandas.get_dummies.* columns s \(str\)$"),
    "o": (pd.Series([1, "a"] * 5, dtype=object), r"columns o \(object\)$"),
    "k": (np.arange(10) * 1j, r"columns k \(complex128\)$"),
}


@pytest.mark.parametrize("suffix", ["frame", "parquet"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_no_number_is_named_with_what_to_do(tmp_path, name, suffix):
    values, message = COLUMNS[name]
    source = FRAME.assign(**{name: values})
    if suffix == "parquet":
        if name in ("o", "k"):
            return
        source.to_parquet(tmp_path / "a.parquet")
        source = tmp_path / "a.parquet"
    refused("`source` must be a table of numbers: .*" + message, source)


def test_columns_of_all_kinds_are_named_in_one_message():
    frame = FRAME.assign(**{name: COLUMNS[name][0] for name in ("d", "s", "t")})
    refused(r"turn dates .*; turn durations .*; leave text out.* columns d \(date.*\), s \(str\), t \(time", frame)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(10) + 1000, "number the rows.*leave them out.* Received: source with the columns k$"),
        (np.full(10, 7.5), "have the same value in each row.*leave them out.* Received: source with the columns k$"),
        (np.arange(10) * 2, None),
        (np.arange(10) + 0.5, None),
        (np.arange(10)[::-1], None),
    ],
)
def test_a_column_that_says_nothing_is_named(values, message):
    with warnings.catch_warnings() if message is None else pytest.warns(UserWarning, match=message):
        warnings.simplefilter("error" if message is None else "always")
        assert read(FRAME.assign(k=values)).train.shape == (10, 4)


def read_rows(path):
    x, names = tables.rows(tables.frame(path), str(path))
    assert names == tables.names(path)
    return x


def test_rows_to_ask_about_may_be_alone_and_have_missing_values(tmp_path, recwarn):
    FRAME.iloc[:1].to_csv(tmp_path / "a.csv")
    with pytest.warns(UserWarning, match="no name and counts the rows"):
        np.testing.assert_array_equal(read_rows(tmp_path / "a.csv"), FRAME.iloc[:1].to_numpy(float))
    (tmp_path / "b.csv").write_text("a,b\n1,\n1,2\n1,3\n")
    np.testing.assert_array_equal(read_rows(tmp_path / "b.csv"), [[1, np.nan], [1, 2], [1, 3]])
    assert tables.names(tmp_path / "b.csv") == ["a", "b"]
    assert not recwarn


def test_a_data_frame_is_standardised_as_its_csv(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    for source in (FRAME, FRAME.convert_dtypes(), FRAME.convert_dtypes(dtype_backend="pyarrow")):
        ours, expected = load(source, seed=1), load(tmp_path / "a.csv", seed=1)
        np.testing.assert_array_equal(ours.offset, expected.offset)
        np.testing.assert_array_equal(ours.scale, expected.scale)
        np.testing.assert_array_equal(rows(ours.validation), rows(expected.validation))


def test_a_frame_of_another_library_is_read_by_its_to_pandas():
    arrays = read(types.SimpleNamespace(to_pandas=lambda: FRAME))
    np.testing.assert_array_equal(arrays.train, FRAME.to_numpy(float))
    assert arrays.scale is None


def test_missing_values_of_nullable_columns_are_told():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([True, False], "boolean")})
    refused("without missing values: .* Received: source, missing in the columns a$", frame)


@pytest.mark.parametrize(
    "wrap",
    [
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        tf.sparse.from_dense,
        lambda x: types.SimpleNamespace(X=x, obs_names=list("abcd")),
        lambda x: types.SimpleNamespace(X=scipy.sparse.csc_matrix(x), obs_names=list("abcd")),
    ],
    ids=["csr_matrix", "coo_array", "SparseTensor", "AnnData", "sparse AnnData"],
)
def test_sparse_matrices_and_anndata_are_arrays(wrap):
    x = np.float32([[1, 0, 2], [0, 0, 0], [0, 3, 0], [4, 0, 5]])
    np.testing.assert_array_equal(read(wrap(x)).train, x)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            [np.ones((5, 2))] * 2,
            r"tfvae.likelihoods.Columns. Received: a list of 2 of the shapes \[\[5, 2\], \[5, 2\]\]",
        ),
        ([np.ones(3)] * 2000, r"np.stack.* Received: a list of 2000 of the shapes .{,60}$"),
        ([[1.0], [2.0, 3.0]], "one array, of rows of one shape. Received: list"),
        (tf.ragged.constant([[1.0, 2.0], [3.0]]), r"x.to_tensor\(\). Received: a RaggedTensor"),
        (types.SimpleNamespace(X=None, obs_names=[]), "one of its layers. Received: .X is None"),
    ],
)
def test_what_is_not_one_array_is_told_in_one_line(source, message):
    refused("`source` must .*" + message, source)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_standardised_by_its_training_split(tmp_path, suffix):
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(5, 3, 50), rng.integers(0, 9, 50), np.full(50, 0.1), rng.random(50) < 0.5], axis=1)
    frame = pd.DataFrame(values, columns=list("abcd")).astype({"b": int, "d": bool})
    path = tmp_path / f"a{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    with pytest.warns(UserWarning, match="same value in each row.* with the columns c$"):
        pipelines = load(path, batch_size=8, seed=4)
    permutation = np.random.default_rng(4).permutation(50)
    train, validation = values[permutation[10:]], values[permutation[:10]]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[2] = 1
    np.testing.assert_allclose(pipelines.offset, mean, rtol=1e-6)
    np.testing.assert_allclose(pipelines.scale, deviation, rtol=1e-6)
    assert pipelines.offset.dtype == pipelines.scale.dtype == np.float32
    np.testing.assert_allclose(rows(pipelines.validation), (validation - mean) / deviation, atol=1e-5)
    standardised = rows(pipelines.train)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(standardised.std(axis=0), [1, 1, 0, 1], atol=1e-6)


def test_a_table_keeps_small_differences_of_large_numbers(tmp_path):
    # In float32 these would all be the same number.
    pd.DataFrame({"t": 1.7e9 + np.arange(50.0)}).to_csv(tmp_path / "a.csv", index=False)
    pipelines = load(tmp_path / "a.csv")
    assert len(np.unique(rows(pipelines.train))) == 40
    np.testing.assert_allclose(rows(pipelines.train).std(), 1, rtol=1e-5)


def test_a_table_keeps_float64_until_it_is_split(tmp_path):
    pd.DataFrame({"a": [1.0, 2.0]}).to_csv(tmp_path / "a.CSV", index=False)
    arrays = read(tmp_path / "a.CSV")
    assert arrays.train.dtype == np.float64
    assert arrays.scale is None
    np.testing.assert_array_equal(arrays.train, [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,x,2\n2,y,3\n", r"a table of numbers: .* Received: .*a.csv' with the non-numeric columns b "),
        ("a,b,c\n1,,2\n2,3,\n", r"a table without missing values: .* Received: .*a.csv', missing in the columns b, c"),
        ("a,b\n", r"a table with rows and columns. Received: .*a.csv' of shape \(0, 2\)"),
        ("", "a readable table. Received: .*a.csv': No columns"),
        ("a,b\n1,2\n1,2,3\n", "a readable table. Received: .*a.csv': Error tokenizing"),
        ("a,b\n1,2\n1,inf\n", r"finite numbers, as float32. Received: 1 of 4 NaN or infinite, .* \(1, 1\)"),
    ],
)
def test_a_bad_table_is_told(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"`source` must (be|hold) " + message):
        read(tmp_path / "a.csv")


def test_a_corrupt_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match=r"`source` must be a readable table. Received: .*a.parquet"):
        read(tmp_path / "a.parquet")


def test_a_table_without_pandas_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    real_import = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError("No module named 'pandas'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match=r"pip install 'tfvae\[tables\]'. Received: .*a.csv") as error:
        read(tmp_path / "a.csv")
    assert "pandas" in str(error.value.__cause__)
