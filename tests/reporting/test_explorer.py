"""The page to explore a model, in headless Chromium, against the model itself; and what is refused.

The tests that open the page need Chromium with its driver, selenium, and LiteRT.js, and fail where they are missing:

    apt-get install chromium chromium-driver
    npm install --prefix FOLDER @litertjs/core
    LITERTJS_MODULES=FOLDER/node_modules pytest -m browser tests/reporting/test_explorer.py
"""

import functools
import http.server
import json
import os
import re
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import tfvae
from tests.helpers import table_rows
from tfvae import export
from tfvae.networks import dense_decoder, dense_encoder

WAIT = 60


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images / 16.0).astype("float32")[:60, ..., np.newaxis]


@pytest.fixture(scope="module")
def vae(digits):
    model = tfvae.VAE(dense_encoder((8, 8, 1), (16,)), dense_decoder(3, (8, 8, 1), (16,)), 3)
    model.compile("adam")
    model.fit(digits, epochs=3, verbose=0)
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(digits, false_alarm_rate=0.01)
    return model


def config_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="config">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_the_page_knows_the_examples_in_raw_units_and_fetches_what_it_does_not_hold_with_hashes(vae, digits, tmp_path):
    page = export.web(vae, tmp_path, digits, labels=load_digits().target[:60], title="</title>", offset=0.0, scale=16.0)
    config = config_of(page)
    np.testing.assert_allclose(config["examples"], 16 * digits[:24].reshape(24, -1), atol=1e-4)
    np.testing.assert_allclose(config["points"], vae.encode(digits)["loc"], atol=1e-4)
    assert config["limits"] == [0.0, 16.0]
    assert config["classes"] == [str(digit) for digit in range(10)]
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"index.html", "model.tflite"}
    text = page.read_text(encoding="utf-8")
    sources = json.loads(re.search(r'id="runtime">(.*?)</script>', text, re.DOTALL)[1])
    assert sources.pop("model") == {"url": "model.tflite"}
    for source in sources.values():
        assert source["url"].startswith("https://cdn.jsdelivr.net/npm/@litertjs/")
        assert re.fullmatch(r"sha384-[A-Za-z0-9+/]{64}", source["integrity"])
    assert "<title>&lt;/title&gt;</title>" in text


def test_errors(vae, digits, tmp_path):
    sphere = tfvae.VAE(
        dense_encoder((8, 8, 1), ()),
        dense_decoder(2, (8, 8, 1), ()),
        2,
        posterior=tfvae.posteriors.PowerSpherical(),
        prior=tfvae.priors.HypersphericalUniform(),
    )
    for call, message in (
        (lambda: export.web("vae", tmp_path, digits), r"`model` must be a tfvae\.VAE without conditions"),
        (lambda: export.web(sphere, tmp_path, digits), r"`model` must have z that are real vectors"),
        (lambda: export.web(vae, tmp_path, digits[:1]), r"`x` must hold at least 2"),
        (
            lambda: export.web(vae, tmp_path, digits, labels=range(60)),
            r"`labels` must have the shape \[60\] and at most",
        ),
        (lambda: export.web(vae, tmp_path, digits, single_file=True), r"`runtime` must be given for a single file"),
        (lambda: export.web(vae, tmp_path, digits, runtime=tmp_path), r"`runtime` must be the folder node_modules"),
    ):
        with pytest.raises(ValueError, match=message + r"(.|\n)*Received: "):
            call()
    with pytest.raises(NotImplementedError, match="no rows of tables"):
        export.web(table_rows.table_vae(), tmp_path, digits)
    assert list(tmp_path.iterdir()) == []


# In the browser


@pytest.fixture(scope="module")
def open_page():
    """Opens an address in Chromium of some width and waits until the page is ready."""
    from selenium import webdriver

    drivers = []

    def open_at(address, width=1280, dark=False):
        options = webdriver.ChromeOptions()
        for flag in (
            *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
            *("disable-background-networking", "disable-component-update", f"window-size={width},1400"),
            *(["blink-settings=preferredColorScheme=0"] if dark else []),
        ):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options=options)
        drivers.append(driver)
        driver.get(address)
        wait(driver, lambda: text(driver, "status") != "Loading the model.")
        assert text(driver, "status").startswith("The model is ready.")
        return driver

    yield open_at
    for driver in drivers:
        driver.quit()


@pytest.fixture(scope="module")
def runtime():
    return os.environ["LITERTJS_MODULES"]


@pytest.fixture(scope="module")
def served(vae, digits, runtime, tmp_path_factory):
    """The address of a page on a server that sends no special headers, as static hosts do."""
    folder = tmp_path_factory.mktemp("explore")
    export.web(vae, folder, digits, labels=load_digits().target[:60], offset=0.0, scale=16.0, runtime=runtime)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def wait(driver, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, WAIT).until(lambda _: condition())


def text(driver, name):
    return driver.find_element("id", name).text


def values(driver):
    return np.array(json.loads(driver.find_element("id", "generated").get_attribute("data-values")))


def set_slider(driver, name, value):
    before = values(driver)
    driver.execute_script(
        "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
        "input.dispatchEvent(new Event('input'));",
        name,
        value,
    )
    wait(driver, lambda: not np.array_equal(values(driver), before))


def score_of(driver):
    return float(driver.find_element("id", "verdict").get_attribute("data-score"))


browser = [pytest.mark.slow, pytest.mark.browser]


@pytest.mark.parametrize("place", [pytest.param("server", marks=browser), pytest.param("file", marks=browser)])
def test_a_slider_changes_the_picture_to_what_the_model_decodes(
    place, served, open_page, vae, digits, runtime, tmp_path
):
    address = served
    if place == "file":
        address = export.web(vae, tmp_path, digits, offset=0.0, scale=16.0, runtime=runtime, single_file=True).as_uri()
    driver = open_page(f"{address}#z=0.5,-1,0.25")
    expected = 16 * vae.decode(np.array([[0.5, -1.0, 0.25]], "float32"))
    np.testing.assert_allclose(values(driver), expected.ravel(), atol=1e-4 * np.abs(expected).max())
    set_slider(driver, "z1", 2)
    expected = 16 * vae.decode(np.array([[0.5, 2.0, 0.25]], "float32"))
    np.testing.assert_allclose(values(driver), expected.ravel(), atol=1e-4 * np.abs(expected).max())
    assert driver.current_url.endswith("#z=0.5000,2.0000,0.2500")


@pytest.mark.slow
@pytest.mark.browser
def test_the_seed_of_the_address_gives_the_same_sample(served, open_page):
    first, second, other = (values(open_page(f"{served}#seed={seed}")) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.slow
@pytest.mark.browser
def test_an_example_and_a_dropped_picture_are_scored_as_python_does(served, open_page, vae, digits, tmp_path):
    driver = open_page(served)
    scores = vae.detect(digits)["score"]
    assert score_of(driver) == pytest.approx(scores[0], abs=1e-3)
    driver.execute_script(
        "const s = document.getElementById('example'); s.value = 5; s.dispatchEvent(new Event('change'));"
    )
    wait(driver, lambda: score_of(driver) == pytest.approx(scores[5], abs=1e-3))
    pixels = np.round(255 * digits[9, ..., 0]).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    driver.find_element("id", "file").send_keys(str(tmp_path / "picture.png"))
    expected = vae.detect((pixels / 255.0).astype("float32")[np.newaxis, ..., np.newaxis])["score"][0]
    wait(driver, lambda: score_of(driver) == pytest.approx(expected, abs=1e-3))
    (tmp_path / "words.png").write_text("no picture")
    driver.find_element("id", "file").send_keys(str(tmp_path / "words.png"))
    wait(driver, lambda: "not a picture" in text(driver, "verdict"))


@pytest.mark.slow
@pytest.mark.browser
def test_the_keyboard_moves_z_on_the_map(served, open_page, vae):
    from selenium.webdriver.common.keys import Keys

    driver = open_page(f"{served}#z=0,0,0")
    before = values(driver)
    driver.find_element("id", "map").send_keys(Keys.ARROW_RIGHT)
    wait(driver, lambda: not np.array_equal(values(driver), before))
    across = int(driver.find_element("id", "across").get_attribute("value"))
    z = np.zeros((1, 3), "float32")
    z[0, across] = 0.1
    expected = 16 * vae.decode(z).ravel()
    np.testing.assert_allclose(values(driver), expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [500, 1280])
def test_every_control_has_a_name_and_nothing_is_wider_than_the_page(served, open_page, width, dark):
    driver = open_page(served, width, dark)
    names = driver.execute_script(
        "return [...document.querySelectorAll('input, select, button, canvas')].map("
        "e => (e.getAttribute('aria-label') || (e.labels && e.labels.length && e.labels[0].textContent) ||"
        " e.textContent).trim())"
    )
    assert len(names) > 20
    assert all(names)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
