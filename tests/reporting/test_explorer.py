"""The page to explore a model, in headless Chromium, against the model itself; and what is refused.

The tests that open the page need Chromium with its driver, selenium, and LiteRT.js, and fail where they are missing:

    apt-get install chromium chromium-driver
    npm install --prefix FOLDER @litertjs/core axe-core
    LITERTJS_MODULES=FOLDER/node_modules pytest -m browser tests/reporting
"""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import tfvae
from tests.helpers import table_rows
from tests.helpers.browser import choose, score_of, serve, set_slider, text, values, violations, wait
from tests.helpers.usage import error_line
from tfvae import export
from tfvae.cli import commands
from tfvae.networks import dense_decoder, dense_encoder


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
            r"`labels` must have at most 14 classes",
        ),
        (lambda: export.web(vae, tmp_path, digits, labels=[1]), r"`labels` must have the shape \[60\]"),
        (lambda: export.web(vae, tmp_path, digits, labels="class"), r"`labels` must be an array"),
        (lambda: export.web(table_rows.table_vae(), tmp_path, digits), r"`x` must be rows"),
        (
            lambda: export.web(table_rows.table_vae(), tmp_path, table_rows.frame(), labels="class"),
            r"`labels` must be one of the columns",
        ),
        (lambda: export.web(vae, tmp_path, digits, num_examples=-1), r"`num_examples` must be"),
        (lambda: export.web(vae, tmp_path, digits, single_file=True), r"`runtime` must be given for a single file"),
        (lambda: export.web(vae, tmp_path, digits, runtime=tmp_path), r"`runtime` must be the folder node_modules"),
    ):
        with pytest.raises(ValueError, match=message + r"(.|\n)*Received: "):
            call()
    assert list(tmp_path.iterdir()) == []


# In the browser


@pytest.fixture(scope="module")
def served(vae, digits, runtime, tmp_path_factory):
    """The address of a page on a server that sends no special headers, as static hosts do."""
    folder = tmp_path_factory.mktemp("explore")
    export.web(vae, folder, digits, labels=load_digits().target[:60], offset=0.0, scale=16.0, runtime=runtime)
    yield from serve(folder)


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
    choose(driver, 5)
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
def test_an_example_can_be_chosen_again_after_it_was_cleared(served, open_page, vae, digits):
    driver = open_page(served)
    scores = vae.detect(np.stack([digits[0], np.zeros_like(digits[0])]))["score"]
    driver.find_element("id", "clear").click()
    wait(driver, lambda: score_of(driver) == pytest.approx(scores[1], abs=1e-3))
    assert driver.find_element("id", "example").get_attribute("value") == "own"
    choose(driver, 0)
    wait(driver, lambda: score_of(driver) == pytest.approx(scores[0], abs=1e-3))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_accessible_and_nothing_is_wider_than_it(served, open_page, width, dark):
    driver = open_page(served, width, dark)
    assert violations(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")


def tiny(event_shape, **parts):
    """A model of pictures or vectors, not trained, and some data."""
    x = np.random.default_rng(0).uniform(size=(20, *event_shape)).astype("float32")
    model = tfvae.VAE(dense_encoder(event_shape, (8,)), dense_decoder(2, event_shape, (8,)), 2, **parts)
    model.build((None, *event_shape))
    return model, x


KINDS = {
    "colours": ((6, 5, 3), lambda: {}),
    "vectors": ((40,), lambda: {}),
    "mixture": ((8, 8, 1), lambda: {"prior": tfvae.priors.NormalMixture(num_components=3)}),
    "vamp": ((6,), lambda: {"prior": tfvae.priors.VampPrior(num_components=4)}),
    "flow": ((6,), lambda: {"prior": tfvae.priors.Flow(num_couplings=2)}),
}


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_other_kinds_agree_with_the_saved_model(kind, open_page, runtime, tmp_path):
    event_shape, parts = KINDS[kind]
    model, x = tiny(event_shape, **parts())
    saved_model = export.load(export.saved_model(model, tmp_path / "model", x=x))
    page = export.web(model, tmp_path / "page", x, runtime=runtime, single_file=True)
    config = config_of(page)
    driver = open_page(page.as_uri())
    units = np.array(config["z_mean"]), np.array(config["z_sd"])
    if kind in ("colours", "vectors"):
        np.testing.assert_array_equal(units, [np.zeros(2), np.ones(2)])
    else:
        z = saved_model.encode(x)["loc"]
        np.testing.assert_allclose(units, [z.mean(axis=0), z.std(axis=0)], atol=1e-5)
        # The first sample is the decoded draw of the prior.
        drawn = saved_model.decode(np.array(config["prior_draws"], "float32")).reshape(256, -1)
        assert np.abs(drawn - values(driver)).max(axis=1).min() < 1e-4
    set_slider(driver, "z1", 1.5)
    set_slider(driver, "z0", -0.5)
    z = (units[0] + units[1] * [-0.5, 1.5]).astype("float32")
    expected = saved_model.decode(z[np.newaxis]).ravel()
    np.testing.assert_allclose(values(driver), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    choose(driver, 3)
    shown = np.array(config["examples"][3], "float32").reshape(1, *event_shape)
    elbo = saved_model.run("serving_default", x=shown)["elbo"][0]
    wait(driver, lambda: score_of(driver) == pytest.approx(elbo, rel=1e-4))
    assert violations(driver) == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("single_file", [False, True])
def test_the_command_writes_a_page_that_works(single_file, open_page, runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--epochs", "1", "--hidden", "16", "--latent_dim", "2", "--num_samples", "5", "--report", "false"]
    commands.main(["train", *flags, "--pictures", "false", "--latency", "false"])
    commands.main(["explore", "--runtime", str(runtime), "--single_file", str(single_file).lower()])
    page = tmp_path / "runs" / "digits" / "explore" / "index.html"
    assert str(page.relative_to(tmp_path)) in capsys.readouterr().out
    line = error_line(capsys, ["explore", "--label", "a"])
    assert "`--label` must be given for the run of a table alone. Received: --label a" in line
    saved_model = export.load(tmp_path / "saved_models" / "digits")
    for address in [page.as_uri()] if single_file else serve(page.parent):
        driver = open_page(f"{address}#z=1,-1")
        expected = saved_model.decode(np.array([[1, -1]], "float32")).ravel()
        np.testing.assert_allclose(values(driver), expected, atol=1e-4 * np.abs(expected).max())
