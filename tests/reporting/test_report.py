"""A report holds what was measured, in one file that asks nothing of the network."""

import dataclasses
import html
import html.parser
import re

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import tfvae
from tests.helpers import browser, table_rows
from tfvae import plots
from tfvae.callbacks.warnings import COLLAPSE_ADVICE
from tfvae.export import card
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.reporting import arrays, document, explorer, sections, table_sections
from tfvae.reporting import page as page_module
from tfvae.reporting.measures import Measures, measure
from tfvae.reporting.subject import Subject

VOID = {"meta", "img", "br", "link"}


class Page(html.parser.HTMLParser):
    """Reads a page: its headings, tables, pictures, links and what it would fetch; its elements must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.cells, self.alternatives, self.addresses, self.ids = [], [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids.add(attrs.get("id"))
        self.addresses += [attrs[name] for name in ("src", "href", "xlink:href", "action") if name in attrs]
        if tag == "img":
            self.alternatives.append(attrs["alt"])
        if tag == "svg":
            self.alternatives.append(attrs["aria-label"])
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


def read(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#s")} <= page.ids
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(text) < 5_000_000
    return page


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images / 16.0).astype("float32")[:40, ..., np.newaxis]


@pytest.fixture(scope="module")
def vae(digits):
    model = tfvae.VAE(dense_encoder((8, 8, 1), (8,)), dense_decoder(2, (8, 8, 1), (8,)), 2)
    model.build((None, 8, 8, 1))
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(digits, false_alarm_rate=0.01)
    return model


def test_a_report_of_pictures_has_all_that_is_known(vae, digits, tmp_path):
    verification = {
        "num_examples": 40,
        "agreements": [
            {"format": "TFLite", "signature": "encode", "output": "loc", "max_difference": 3e-6, "max_value": 2.5}
        ],
        "costs": [{"format": "Keras", "size": None}, {"format": "TFLite", "size": 123456}],
    }
    path = tfvae.report(
        vae,
        digits,
        tmp_path,
        title="<digits> & co",
        labels=load_digits().target[:40],
        train=digits[:20],
        history={"elbo": [1.0, 2.0]},
        verification=verification,
        facts={"Command": "tfvae train <digits>", "config.yaml": "a: <1>\nb: 2"},
        warnings=["a < b", "a < b"],
        num_samples=10,
    )
    assert path == tmp_path / "report.html"
    page = read(path)
    expected = ["Held-out data", "Training", "Reconstructions", "Samples", "Latent space"]
    expected += ["Along each latent dimension", "Between two examples", "Unusual examples"]
    assert page.headings == [*expected, "Exports", "Warnings", "How it was made"]
    measures = measure(vae, digits, 10, seed=0)
    for values in (measures.elbo, measures.log_likelihood, measures.kl):
        assert f"{values.mean():.3f}" in page.cells
        assert f"{values.std(ddof=1) / np.sqrt(40):.3f}" in page.cells
    assert {"3.0e-06", "2.5", "123,456"} <= set(page.cells)
    assert all(page.alternatives)
    text = path.read_text(encoding="utf-8")
    assert text.count("a &lt; b") == 1
    assert "<dt>Command</dt><dd>tfvae train &lt;digits&gt;</dd>" in text
    assert "<h3>config.yaml</h3>" in text
    assert "<h3>Command</h3>" not in text
    assert "&lt;digits&gt; &amp; co" in text
    assert "<digits>" not in text


@pytest.mark.parametrize(
    ("kl", "words", "absent"),
    [(0.01, COLLAPSE_ADVICE, "not collapsed"), (0.405, "the posterior has not collapsed", COLLAPSE_ADVICE)],
)
def test_no_active_dimension_is_a_collapse_only_if_the_kl_divergence_is_near_0(kl, words, absent, vae, digits):
    measured = Measures(np.zeros(40), np.zeros(40), np.full(40, kl), 10)
    subject = Subject(vae, digits, {}, None, None, None, {}, None, {}, [], 10, 0, measured)
    subject.__dict__["active"] = 0
    assert "0 of 2 latent dimensions are active" in sections.held_out(subject).body
    body = html.unescape(sections.traversals(subject).body)
    assert f"variance of at most 0.01 over the examples. KL(q(z|x) || p(z)) is {kl:.3g} nats" in body
    assert words in body
    assert absent not in body


def test_the_parts_and_the_weights_are_those_of_every_other_place(vae, digits):
    subject = Subject(vae, digits, {}, None, None, None, {}, None, {}, [], 10, 0)
    parts = html.unescape(sections.origin(subject).body)
    assert "<dt>posterior</dt><dd>DiagonalNormal(latent_dim=2)</dd>" in parts
    assert "built=" not in parts
    count = sum(part.count_params() for part in (vae.encoder, vae.decoder, vae.posterior))
    assert f"with {count:,} weights" in document._lead(subject)
    assert f"with {count:,} weights" in explorer._page("title", vae, {}, {})
    assert f"{count:,} weights" in card._parts(vae)


@pytest.mark.slow
def test_what_is_not_known_is_left_out(vae, digits, tmp_path):
    measures = measure(vae, digits[:3], 10, seed=0)._replace(elbo=np.arange(3.0))
    page = read(tfvae.report(vae, digits[:3], tmp_path / "a.html", measures=measures))
    assert {"Training", "Exports", "Warnings"}.isdisjoint(page.headings)
    assert not any("training example" in words for words in page.alternatives)
    assert {"1.000", f"{1 / np.sqrt(3):.3f}"} <= set(page.cells)


@pytest.mark.slow
def test_a_report_of_vectors_has_lines(tiny_vae, x, tmp_path):
    model = tiny_vae()
    model.build((None, 4))
    page = read(tfvae.report(model, x, tmp_path, train=x, num_samples=5))
    assert {"Reconstructions", "Samples", "Between two examples"} <= set(page.headings)
    assert "Unusual examples" not in page.headings


@pytest.mark.slow
def test_a_report_of_a_table_has_columns_rows_and_reasons(tmp_path):
    model = table_rows.table_vae()
    rows = table_rows.frame(40, seed=2)
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(rows, false_alarm_rate=0.01)
    page = read(tfvae.report(model, rows, tmp_path, num_samples=5, train=table_rows.frame(30, seed=3)))
    expected = ["Held-out data", "Columns", "Generated rows", "Latent space", "Along each latent dimension"]
    expected += ["Between two rows", "Unusual rows", "How it was made"]
    assert page.headings == expected
    assert {"+2 sd", "50%", "order time"} <= set(page.cells)
    assert "nats per row" in page.cells
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "phöne" in text
    assert "Of 40 generated rows, 0 equal a row of the training." in text
    assert "score" in text


def conditional():
    """A model of digits given their class, one-hot, not trained."""
    x, c = keras.Input((8, 8, 1)), keras.Input((10,))
    encoder = keras.Model([x, c], keras.layers.Concatenate()([keras.layers.Flatten()(x), c]))
    z = keras.Input((2,))
    decoded = keras.layers.Dense(64)(keras.layers.Concatenate()([z, c]))
    decoder = keras.Model([z, c], keras.layers.Reshape((8, 8, 1))(decoded))
    model = tfvae.ConditionalVAE(encoder, decoder, 2, condition_dim=10)
    model.build((None, 8, 8, 1))
    return model


def test_samples_are_given_each_condition_or_those_of_the_first_examples(monkeypatch):
    model = conditional()
    shown = Subject(
        model, np.random.default_rng(0).uniform(size=(30, 8, 8, 1)), {}, None, None, None, {}, None, {}, [], 1, 0
    )
    few = np.eye(10, dtype="float32")[[3, 3, 7] * 10]
    section = arrays.samples_given(dataclasses.replace(shown, given={"condition": few}))
    assert section.body.count('<th scope="row">') == 2
    monkeypatch.setattr(arrays, "_CONDITIONS", 1)
    section = arrays.samples_given(dataclasses.replace(shown, given={"condition": few}))
    assert section.body.count('<th scope="row">') == 1


@pytest.mark.slow
def test_a_report_of_a_conditional_model_has_samples_given_each_condition(digits, tmp_path):
    data = {"x": digits, "condition": np.eye(10, dtype="float32")[load_digits().target[:40]]}
    model = conditional()
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(data, false_alarm_rate=0.01)
    page = read(tfvae.report(model, data, tmp_path, train=data, num_samples=5))
    expected = ["Held-out data", "Reconstructions", "Samples", "Latent space", "Unusual examples", "How it was made"]
    assert page.headings == expected
    assert "condition" in page.cells
    assert {"1", "10"} <= set(page.cells)
    assert "0, 0, 0, 0, 0, 0, 0, 0, 0, 1" in page.cells
    assert any("training example nearest" in words for words in page.alternatives)
    measures = measure(model, data, 5, seed=0)
    assert f"{measures.elbo.mean():.3f}" in page.cells


@pytest.mark.slow
def test_a_report_of_a_semi_supervised_model_has_the_classes(digits, tmp_path):
    x, y = keras.Input((8, 8, 1)), keras.Input((10,))
    flat = keras.layers.Flatten()(x)
    encoder = keras.Model([x, y], keras.layers.Concatenate()([flat, y]))
    z = keras.Input((2,))
    decoded = keras.layers.Dense(64)(keras.layers.Concatenate()([z, y]))
    decoder = keras.Model([z, y], keras.layers.Reshape((8, 8, 1))(decoded))
    classifier = keras.Model(x, keras.layers.Dense(10)(flat))
    model = tfvae.SemiSupervisedVAE(encoder, decoder, classifier, 2, num_classes=10)
    label = load_digits().target[:40].copy()
    label[:5] = -1
    model.build((None, 8, 8, 1))
    page = read(tfvae.report(model, {"x": digits, "label": label}, tmp_path, num_samples=5))
    assert page.headings[1:5] == ["Classes", "Reconstructions", "Samples", "Latent space"]
    right = np.mean(model.classify(digits[5:]).argmax(axis=1) == label[5:])
    assert f"right for {right:.1%} of the 35 examples" in (tmp_path / "report.html").read_text()


def test_a_column_colours_the_latent_space_of_a_table(tmp_path, monkeypatch):
    model, rows = table_rows.table_vae(), table_rows.frame(30)
    seen = []
    latent = plots.latent
    monkeypatch.setattr(plots, "latent", lambda *a, **kw: seen.append(kw["labels"]) or latent(*a, **kw))
    monkeypatch.setattr(document, "_OF_TABLES", (sections.latent_space,))
    tfvae.report(model, rows.assign(group=["a", None, "b"] * 10), tmp_path, labels="group", num_samples=5)
    assert list(seen[0]) == ["a", "missing", "b"] * 10


def test_distances_to_the_nearest_row_count_gaps_codes_and_units():
    table = table_rows.table_vae().table
    rows = table_rows.frame(20)
    x = table.transform(rows)
    np.testing.assert_array_equal(table_sections._nearest(table, x, x[::-1]), np.zeros(20))
    other = x[:1].copy()
    channel, height = table.names.index("channel"), table.names.index("height")
    other[0, channel] = (other[0, channel] + 2) % 4
    other[0, height] = np.nan if not np.isnan(other[0, height]) else 0.0
    items = table.names.index("items")
    other[0, items] = 2 * other[0, items] + 1
    expected = 2 + np.log(2) / table.parts[items].transform["stddev"]
    np.testing.assert_allclose(table_sections._nearest(table, other, x[:1]), [expected])


def test_text_in_figures_stays_readable_on_a_phone():
    figure = Figure((7, 3))
    figure.text(0, 0, "small", size=8)
    figure.suptitle("A <title>", size=3)
    assert '<figcaption>A &lt;title&gt;</figcaption><div class="figure w36"' in page_module.picture(figure, "a figure")
    figure = Figure((4, 3))
    figure.text(0, 0, "large", size=12)
    assert 'class="figure w21"' in page_module.picture(figure, "a figure")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_is_accessible_and_its_text_readable(width, dark, vae, digits, tmp_path):
    path = tfvae.report(vae, digits, tmp_path, train=digits, history={"elbo": [1.0, 2.0]}, num_samples=10)
    driver = browser.driver(width, dark)
    driver.get(path.as_uri())
    assert browser.violations(driver) == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('text')].map(text =>"
        " parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"
    )
    assert all(sizes)
    assert min(min(each) for each in sizes) > 8.9
    overflows = driver.execute_script(
        "return [...document.querySelectorAll('.figure')].map(each => ["
        " each.scrollWidth > each.clientWidth, getComputedStyle(each.nextElementSibling).display !== 'none'])"
    )
    assert all(hinted for is_wider, hinted in overflows if is_wider)
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "left_out"),
    [
        ({"posterior": tfvae.posteriors.FullCovarianceNormal}, None),
        (
            {"posterior": tfvae.posteriors.PowerSpherical, "prior": tfvae.priors.HypersphericalUniform},
            "Along each latent dimension",
        ),
    ],
)
def test_parts_of_other_kinds_have_a_report(part, left_out, tiny_vae, x, tmp_path):
    model = tiny_vae(**{slot: make() for slot, make in part.items()})
    model.build((None, 4))
    page = read(tfvae.report(model, x, tmp_path, num_samples=5))
    assert "Latent space" in page.headings
    assert left_out not in page.headings


def test_errors_come_before_anything_is_written(vae, digits, tmp_path):
    for call, message in (
        (lambda: tfvae.report("model", digits, tmp_path), r"`model` must be a tfvae\.VAE"),
        (lambda: tfvae.report(vae, digits, tmp_path, labels=[1, 2]), r"`labels` must have the shape \[40\]"),
        (lambda: tfvae.report(vae, digits, tmp_path, num_samples=0), r"`num_samples` must be"),
        (lambda: tfvae.report(vae, digits[..., 0, 0], tmp_path), r"`x` must"),
        (lambda: tfvae.report(vae, digits[:0], tmp_path), r"`data` must hold examples|`x` must"),
        (lambda: tfvae.report(vae, digits, tmp_path, train=digits[..., 0]), r"`train` must have the shape"),
        (lambda: tfvae.report(table_rows.table_vae(), digits, tmp_path), r"`data` must be rows"),
        (lambda: tfvae.report(vae, {"x": digits}, tmp_path), r"`data` must be an array"),
        (lambda: tfvae.report(vae, digits, tmp_path, labels="class"), r"`labels` must be an array"),
        (lambda: tfvae.report(conditional(), digits, tmp_path), r"`data` must be a dictionary of arrays, .*condition"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []
