"""The page to explore the model of a table, against the model: see test_explorer.py for what it needs."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tests.helpers import table_rows
from tests.helpers.browser import choose, score_of, text, values, violations, wait
from tfvae import export
from tfvae.reporting import page_data

browser = pytest.mark.browser


@pytest.fixture(scope="module")
def model():
    model = table_rows.table_vae()
    rows = table_rows.frame()
    model.compile("adam")
    model.fit(rows, epochs=5, verbose=0)
    model.calibrate(rows, false_alarm_rate=0.05)
    return model


@pytest.fixture(scope="module")
def page(model, runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    rows = table_rows.frame()
    return export.web(model, folder, rows, labels="channel", runtime=runtime, single_file=True, num_examples=5)


def test_the_page_holds_no_row_of_the_data_unless_that_is_asked_for():
    model, rows = table_rows.table_vae(), table_rows.frame(50)
    x = model.of_rows(rows)
    arguments = {"rows": rows, "labels": None, "offset": None, "scale": None, "seed": 0}
    known = page_data.of_model(model, x, num_examples=0, **arguments)
    assert known["example_names"] == ["a typical row"]
    shown = page_data.of_model(model, x, num_examples=3, **arguments)
    assert len(shown["examples"]) == 4
    names = [column["name"] for column in shown["columns"]]
    found = pd.DataFrame(shown["examples"][1:], columns=names).replace("", None)
    np.testing.assert_allclose(model.table.codes(found), model.table.codes(rows.head(3)), atol=1e-9)
    places = [place for column in shown["columns"] for place in column["places"]]
    assert sorted(places) == list(range(len(model.table.names)))
    json.dumps(shown, allow_nan=False)


@pytest.mark.slow
@browser
def test_z_is_decoded_to_the_row_that_python_gives(page, open_page, model):
    driver = open_page(page.as_uri())
    generator = np.random.default_rng(0)
    for z in generator.normal(scale=2.5, size=(25, 3)).round(2):
        driver.execute_script("location.hash = arguments[0]", f"z={','.join(map(str, z))}")
        expected = export_mean(model, z)
        wait(driver, lambda expected=expected: np.allclose(values(driver), expected, rtol=1e-4, atol=1e-4))
        mean = values(driver)[np.newaxis]
        rows = model.table.rows_of_codes(model.table.codes_of_mean(mean))
        # The page says that a category is a rare one, and does not draw which.
        (texts,) = page_data._texts(model.table, rows.replace({"channel": {"fax": "other"}}))
        cells = driver.find_elements("css selector", "#generated-row td")
        shown = [cell.get_attribute("data-value") for cell in cells]
        assert as_numbers(shown) == as_numbers(texts)


def export_mean(model, z):
    signature = model.export_signatures()["decode"]
    return np.asarray(signature.function(np.array([z], "float32"))["mean"])[0]


def as_numbers(texts):
    """Numbers are compared to the digits that are shown."""
    return [pytest.approx(float(each), rel=1e-5) if re.fullmatch(r"-?[\d.]+", each) else each for each in texts]


@pytest.mark.slow
@browser
def test_rows_of_csv_are_scored_as_python_does_with_the_same_reasons(page, open_page, model, tmp_path):
    driver = open_page(page.as_uri())
    rows = table_rows.held_out()
    rows.to_csv(tmp_path / "rows.csv", index=False)
    read = pd.read_csv(tmp_path / "rows.csv")
    driver.find_element("id", "file").send_keys(str(tmp_path / "rows.csv"))
    wait(driver, lambda: "rows.csv, row 12" in driver.find_element("id", "example").text)
    found = model.detect(read)
    nats = model.table.by_column(found["contributions"])
    first = 1 + 5
    for row, score in enumerate(found["score"]):
        choose(driver, first + row)
        wait(driver, lambda score=score: score_of(driver) == pytest.approx(score, rel=1e-4, abs=1e-3))
        assert text(driver, "verdict").startswith("Unusual" if found["is_anomaly"][row] else "Typical")
        cells = [cell.text for cell in driver.find_elements("css selector", "#row tbody td:last-child")]
        np.testing.assert_allclose(np.array(cells, float), nats[row], atol=0.006, rtol=1e-3)
        best = list(model.table.kinds)[int(np.argmax(nats[row]))]
        assert text(driver, "reasons-list").startswith(f"{best} (")


@pytest.mark.slow
@browser
def test_the_form_refuses_what_is_not_of_a_column_and_takes_what_is_missing(page, open_page, model):
    driver = open_page(page.as_uri())
    place = list(model.table.kinds).index("height")
    before = score_of(driver)

    def fill(value):
        driver.execute_script(
            "const i = document.getElementById(arguments[0]); i.value = arguments[1];"
            "i.dispatchEvent(new Event('input'));",
            f"x{place}",
            value,
        )

    fill("tall")
    wait(driver, lambda: 'Column "height" must hold numbers' in text(driver, "verdict"))
    fill("")
    (typical,) = page_data._texts(model.table, model.table.rows_of_codes(model.table.typical))
    row = dict(zip(model.table.kinds, typical, strict=True)) | {"height": None}
    expected = model.detect(pd.DataFrame([row]))["score"][0]
    wait(driver, lambda: score_of(driver) == pytest.approx(expected, rel=1e-4, abs=1e-3))
    assert score_of(driver) != before
    choose(driver, 0)
    wait(driver, lambda: score_of(driver) == before)
    for pasted, message in (
        ("a,b\n1,2", "must have a first line with the names of the columns, or one line with 10 values"),
        ("height\n1", 'without "amount"'),
        ('height,"amount', "A quote in the text has no end"),
        ("", "A row must be given"),
    ):
        driver.execute_script("document.getElementById('pasted').value = arguments[0]", pasted)
        driver.find_element("id", "use").click()
        wait(driver, lambda message=message: message in text(driver, "verdict"))
        assert text(driver, "reasons-list") == ""
        cells = driver.find_elements("css selector", "#row tbody td:nth-child(n + 3)")
        assert len(cells) == 20
        assert all(cell.text == "" for cell in cells)


@pytest.mark.slow
@browser
def test_a_value_that_was_refused_is_not_forgotten_by_the_next_change(page, open_page, model):
    driver = open_page(page.as_uri())
    names = list(model.table.kinds)
    for name, value in (("height", "tall"), ("amount", "3.5")):
        driver.execute_script(
            "const i = document.getElementById(arguments[0]); i.value = arguments[1];"
            "i.dispatchEvent(new Event('input'));",
            f"x{names.index(name)}",
            value,
        )
        wait(driver, lambda: 'Column "height" must hold numbers' in text(driver, "verdict"))
    assert np.isnan(score_of(driver))


@pytest.mark.slow
@browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_accessible_and_nothing_is_wider_than_it(page, open_page, width, dark):
    driver = open_page(page.as_uri(), width, dark)
    assert violations(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    # What each column adds to the score is in sight, whole.
    assert driver.execute_script(
        "const row = document.getElementById('row'); return row.scrollWidth <= row.clientWidth"
        " && [...row.querySelectorAll('th, td')].every(cell => cell.scrollWidth <= cell.clientWidth + 1)"
    )
    assert "0 for what is typical" in text(driver, "about-score")
