"""A report holds what was measured, in one file that asks nothing of the network."""

import html.parser
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfvae
from tests.helpers import table_rows
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.reporting.measures import measure

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
        facts={"Command": "tfvae train <digits>"},
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
    assert "&lt;digits&gt; &amp; co" in text
    assert "<digits>" not in text


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


def test_a_report_of_a_table_has_columns_rows_and_reasons(tmp_path):
    model = table_rows.table_vae()
    rows = table_rows.frame(40, seed=2)
    with pytest.warns(UserWarning, match="rows"):
        model.calibrate(rows, false_alarm_rate=0.01)
    page = read(tfvae.report(model, rows, tmp_path, num_samples=5))
    expected = ["Held-out data", "Columns", "Generated rows", "Latent space", "Unusual rows", "How it was made"]
    assert page.headings == expected
    assert "nats per row" in page.cells
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "phöne" in text
    assert "score" in text


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
        (lambda: tfvae.report(vae, digits, tmp_path, train=digits[..., 0]), r"`train` must hold examples of the shape"),
        (lambda: tfvae.report(table_rows.table_vae(), digits, tmp_path), r"`data` must be rows"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []
