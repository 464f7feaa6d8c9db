"""A report on sequences of any length, and on texts."""

import html
import types

import numpy as np
import pytest

import tfvae
from tests.helpers import browser, texts
from tests.models import test_sequential
from tests.reporting.test_report import read
from tfvae.callbacks.warnings import COLLAPSE_ADVICE
from tfvae.data import Vocabulary
from tfvae.models.forecasting import Forecast
from tfvae.reporting import sequence_sections
from tfvae.reporting.measures import Measures, measure, ratio, standard_error
from tfvae.reporting.subject import Subject

NAN = np.nan


def subject_of(model, x, train=None, measured=None):
    return Subject(model, x, {}, None, train, None, {}, None, {}, [], 5, 0, measured)


def sequences(count=8, steps=12):
    x = np.random.default_rng(0).normal(size=(count, steps, test_sequential.C)).astype("float32")
    x[0, 9:] = NAN
    x[1, 3] = NAN
    return x


def test_the_error_of_a_ratio_is_that_of_a_mean_for_equal_counts_and_of_draws_for_others():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    found, error = ratio(values, np.full(20, 4))
    assert (found, error) == (pytest.approx(values.mean() / 4), pytest.approx(standard_error(values) / 4))
    counts = rng.integers(1, 9, (4000, 50))
    ratios, errors = zip(*(ratio(3 * c + rng.normal(0, c**0.5), c) for c in counts), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)
    assert np.isnan(ratio(values[:1], np.ones(1))[1])
    assert np.isnan(ratio(values, np.zeros(20))).all()


def test_measures_are_of_sequences_and_of_steps_without_padding():
    x = sequences()
    np.testing.assert_array_equal(sequence_sections.lengths(x), [9, *[12] * 7])
    np.testing.assert_array_equal(sequence_sections.lengths(np.full([2, 3, 1], NAN)), [0, 0])
    values = np.arange(8.0)
    measured = Measures(values, values + 1, values / 2, 5, "sequential Monte Carlo")
    body = sequence_sections.held_out(subject_of(types.SimpleNamespace(undefined={}), x, measured=measured)).body
    assert "log-likelihood (sequential Monte Carlo, K = 5)" in body
    mean, error = ratio(values, sequence_sections.lengths(x))
    for cell in (f"{values.mean():.3f}", f"{standard_error(values):.3f}", f"{mean:.4f}", f"{error:.4f}"):
        assert f"<td>{cell}</td>" in body
    assert "z says almost nothing" not in body
    collapsed = measured._replace(kl=np.full(8, 0.01))
    body = sequence_sections.held_out(subject_of(types.SimpleNamespace(undefined={}), x, measured=collapsed)).body
    assert f"is 0.01 nats: z says almost nothing about x. {COLLAPSE_ADVICE}" in html.unescape(body)
    assert f"93 steps in 8 sequences of 9 to 12; {3 / 279:.1%} of the values before the ends are missing" in body


def test_forecasts_are_of_the_ends_of_sequences_and_say_how_many_true_values_are_in_the_band(monkeypatch):
    x, seen = sequences(), []
    model = test_sequential.build()
    true = np.stack([x[0, 6:9], *x[1:, 9:]])

    def forecast(of, given, steps, levels, num_samples, seed):
        seen.append(given)
        low, high = true - 1, true + 1
        low[:, 0] = high[:, 0] = true[:, 0] + 0.5
        return Forecast(true, dict(zip(levels, (low, true + 0.25, high), strict=True)))

    monkeypatch.setattr(sequence_sections, "forecast", forecast)
    body = sequence_sections.forecasts(subject_of(model, x)).body
    assert np.isnan(seen[0][0, 6:]).all()
    assert np.isnan(seen[0][1:, 9:]).all()
    np.testing.assert_array_equal(seen[0][1:, :9], x[1:, :9])
    assert "<td>66.7%</td><td>0.0%</td>" in body
    assert "<td>0.25</td>" in body
    last = np.abs(true - np.concatenate([x[:1, 5:6], x[1:, 8:9]])).mean()
    assert f"<td>{last:.4g}</td>" in body
    # The last value of a channel that was missing there is one before.
    x[:, 5] = x[:, 8] = NAN
    hidden = np.isnan(seen[0]).all(axis=2) & ~np.isnan(x).all(axis=2)
    np.testing.assert_array_equal(sequence_sections._last_known(x, hidden)[:, 0], [x[0, 4], *x[1:, 7]])
    assert sequence_sections.forecasts(subject_of(model, x[:, :3])) is None


def test_texts_are_escaped_and_copies_of_the_training_counted():
    vocabulary = Vocabulary(["<", "b", "&"])
    model = types.SimpleNamespace(
        vocabulary=vocabulary,
        reconstruct=lambda x, seed: ["<b", *x[1:]],
        generate=lambda n, temperature, seed: ["<b", "b&"] * (n // 2),
    )
    subject = subject_of(model, vocabulary.encode(["b", "&"]), vocabulary.encode(["<b", "bb", "bb"]))
    body = sequence_sections.texts(subject).body
    assert "50% of these are equal" in body
    assert "<td>b</td><td>&lt;b</td>" in body
    body = sequence_sections.written(subject).body
    assert "Of 64 texts, 2 are different, and 32 are among 2 texts of the training." in body
    assert "&lt;b\nb&amp;" in body


def test_errors(tmp_path):
    model, x = test_sequential.build(), sequences()
    for call, message in (
        (lambda: tfvae.report(model, x, tmp_path, labels=[1] * 8), r"`labels` must be None for a SequentialVAE"),
        (lambda: tfvae.report(model, x[..., :2], tmp_path), r"`x` must"),
        (lambda: tfvae.report(model, x, tmp_path, train=x[..., :2]), r"`train` must have the shape \[N, T, 3\]"),
        (lambda: tfvae.report(model, {"x": x}, tmp_path), r"`data` must be an array"),
        (lambda: tfvae.report(texts.text_vae(length=5), ["abc"], tmp_path), r"`texts` must"),
    ):
        with pytest.raises(ValueError, match=message + r"(.|\n)*Received: "):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("memory", [False, True])
def test_a_report_of_a_sequential_model(memory, tmp_path):
    model, x = test_sequential.build(memory=memory), sequences(40)
    model.calibrate(x, threshold=3.0)
    page = read(tfvae.report(model, x, tmp_path, train=x[:, :7], num_samples=5, history={"elbo": [1.0, 2.0]}))
    expected = ["Held-out data", "Training", "Reconstructions", "Forecasts", "Samples", "Unusual steps"]
    assert page.headings == [*expected, "How it was made"]
    assert all(page.alternatives)
    measures = measure(model, x, 5, seed=0)
    number = sequence_sections.lengths(x)
    for values in (measures.elbo, measures.log_likelihood, measures.kl):
        assert {f"{values.mean():.3f}", f"{ratio(values, number)[0]:.4f}"} <= set(page.cells)
    assert "<dt>conditional</dt>" in (tmp_path / "report.html").read_text()
    assert ("<dt>memory</dt>" in (tmp_path / "report.html").read_text()) == memory


@pytest.mark.slow
def test_a_report_of_a_complete_sequence_of_codes_has_no_forecast(tmp_path):
    model = test_sequential.build(likelihood=tfvae.likelihoods.Normal(1.0))
    x = np.nan_to_num(sequences())
    assert "Forecasts" in read(tfvae.report(model, x, tmp_path, num_samples=5)).headings
    assert "draws of z have almost all the weight" in (tmp_path / "report.html").read_text()
    model = test_sequential.build(likelihood=tfvae.likelihoods.Categorical(3))
    page = read(tfvae.report(model, np.abs(x).astype(int) % 3, tmp_path, num_samples=5))
    assert page.headings == ["Held-out data", "Reconstructions", "Samples", "How it was made"]


@pytest.mark.slow
def test_a_report_of_texts(tmp_path):
    model = texts.bigrams(length=8)
    given = {"train": ["a", "ab"], "labels": list("abababa"), "num_samples": 5}
    page = read(tfvae.report(model, texts.TEXTS, tmp_path, **given))
    expected = ["Held-out data", "Reconstructions", "Samples", "Latent space", "Between two texts", "How it was made"]
    assert page.headings == expected
    assert set(texts.TEXTS) <= set(page.cells)
    measures = measure(model, texts.TEXTS, 5, seed=0)
    symbols = sum(len(each) + 1 for each in texts.TEXTS)
    bits = -measures.log_likelihood.sum() / symbols / np.log(2)
    assert {"bits per symbol", f"{bits:.4f}"} <= set(page.cells)


@pytest.mark.slow
def test_a_report_of_an_autoregressive_model_of_numbers(tmp_path):
    likelihood = tfvae.likelihoods.Missing(tfvae.likelihoods.Normal("learned"), fill=False)
    networks = texts.series_encoder(3), texts.series_decoder(3, 3)
    model = tfvae.AutoregressiveVAE(*networks, texts.LATENT_DIM, likelihood=likelihood, length=12)
    page = read(tfvae.report(model, sequences(), tmp_path, num_samples=5))
    expected = ["Held-out data", "Reconstructions", "Samples", "Latent space", "How it was made"]
    assert page.headings == expected


@pytest.mark.slow
@pytest.mark.browser
def test_a_report_of_texts_is_accessible(tmp_path):
    path = tfvae.report(texts.bigrams(length=8), texts.TEXTS, tmp_path, num_samples=5)
    driver = browser.driver()
    driver.get(path.as_uri())
    assert browser.violations(driver) == []
    driver.quit()
