"""LiteRT.js in headless Chromium, on the CPU and by WebGPU, against the SavedModel.

Needs Chromium and LiteRT.js, and fails where they are not installed; `-m "slow and not browser"` leaves it out:

    apt-get install chromium
    npm install --prefix FOLDER @litertjs/core
    LITERTJS_MODULES=FOLDER/node_modules pytest -m browser tests/export/test_browser.py

WebGPU is computed by SwiftShader, which needs no GPU.
"""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfvae
from tfvae import export, networks

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import browser  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.browser]
SHIPPED = ROOT / "saved_models" / "digits_example"
REFUSED = "not supported by GPU delegate"


@pytest.fixture(scope="module")
def digits():
    """Images that the models were not trained on, [3, 8, 8, 1]."""
    return next(tfvae.data.load("digits").validation.as_numpy_iterator())[:3]


@pytest.fixture(scope="module", params=["shipped", "convolutional"])
def files(request, tmp_path_factory):
    """A SavedModel, and the .tflite file of the same model for a batch of 1."""
    if request.param == "shipped":
        return SHIPPED, SHIPPED / "digits_example_batch1.tflite"
    keras.utils.set_random_seed(0)
    encoder = networks.convolutional_encoder((8, 8, 1), filters=(8,), hidden=(16,))
    decoder = networks.convolutional_decoder(3, (8, 8, 1), filters=(8,), hidden=(16,))
    model = tfvae.VAE(encoder, decoder, 3, likelihood=tfvae.likelihoods.Normal(0.3))
    model.compile(keras.optimizers.Adam(2e-3))
    # Untrained, its KL divergence would be a small difference of large terms, which no GPU computes to four digits.
    model.fit(tfvae.data.load("digits").train, epochs=5, verbose=0)
    folder = tmp_path_factory.mktemp("convolutional")
    export.saved_model(model, folder)
    return folder, export.tflite(model, folder / "model.tflite", batch_size=1)


@pytest.mark.parametrize("accelerator", browser.ACCELERATORS)
def test_every_signature_is_that_of_the_saved_model(files, digits, accelerator):
    saved_model, file = export.load(files[0]), files[1]
    z = saved_model.encode(digits)["loc"]
    rng = np.random.default_rng(0)
    inputs = {"x": digits, "z": z, "epsilon": rng.standard_normal(z.shape, np.float32)}
    inputs["uniform"] = rng.random((*digits.shape[:-1], 2 * digits.shape[-1]), np.float32)
    names = Interpreter(str(file)).get_signature_list()
    asked = {signature: {name: inputs[name] for name in names[signature]["inputs"]} for signature in names}
    answers, said = browser.ask(file, asked, accelerator)
    assert set(answers) == set(saved_model.signatures)
    for signature, arrays in asked.items():
        expected = saved_model.run(signature, **arrays)
        assert set(answers[signature]) == set(expected)
        for name, value in expected.items():
            difference = np.abs(answers[signature][name].reshape(value.shape) - value).max()
            assert difference <= 1e-4 * np.abs(value).max(), (signature, name, difference)
    if accelerator == "webgpu":
        # Each signature is one graph on the GPU, and no op of it is left to the CPU.
        assert said.count("Initializing WebGPU-based API from graph") == len(names)
        assert REFUSED not in said


def test_the_page_of_the_documents_shows_the_score(digits):
    (page,) = re.findall(r"^```html\n(.*?)^```$", (ROOT / "docs" / "device.md").read_text(), re.MULTILINE | re.DOTALL)
    page += """<script type="module">
        while (!document.body.textContent) await new Promise((done) => setTimeout(done, 50));
        await fetch("/posted", {method: "POST", body: JSON.stringify(document.body.textContent)});
    </script>"""
    file = (SHIPPED / "digits_example_batch1.tflite").read_bytes()
    shown = browser.run(page, {"/digits_batch1.tflite": file}, "wasm")
    expected = export.load(SHIPPED).score(np.zeros((1, 8, 8, 1)), np.zeros((1, 8)))["elbo"]
    np.testing.assert_allclose(float(shown), expected[0], rtol=1e-4)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv(browser.MODULES, "nowhere")
    with pytest.raises(browser.BrowserError, match=r"`npm install @litertjs/core` .* LITERTJS_MODULES='nowhere'$"):
        browser.check_installed()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(browser.BrowserError, match="Chromium must be installed"):
        browser.check_installed()
