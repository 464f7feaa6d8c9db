"""Files that version 0.1.0 wrote: they load, and training continues as it did in that version.

`written_by_0_1` holds a .keras file after one epoch of the training below, a checkpoint of the same training,
interrupted after two steps of its second epoch, and the results that version 0.1.0 then computed.
"""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

import tfvae

FOLDER = pathlib.Path(__file__).parent / "written_by_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
# For float32 rounding when operations run in another order, over a dozen steps of Adam.
TOLERANCE = 1e-4


def build():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dropout(0.2)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    likelihood = tfvae.likelihoods.Normal(scale="learned")
    vae = tfvae.VAE(encoder, decoder, 2, likelihood=likelihood, objective=tfvae.objectives.PIWAE(4, 2))
    vae.compile(keras.optimizers.Adam(0.01))
    return vae


def test_a_model_loads_and_its_training_goes_on():
    vae = keras.saving.load_model(FOLDER / "vae.keras")
    np.testing.assert_allclose(vae.reconstruct(X), EXPECTED["reconstruction"], rtol=1e-5, atol=1e-6)
    loss = vae.fit(X, batch_size=5, epochs=1, verbose=0).history["loss"]
    assert loss == pytest.approx([EXPECTED["loss_after_another_epoch"]], rel=TOLERANCE)


def test_a_checkpoint_goes_on_in_the_middle_of_an_epoch(tmp_path):
    shutil.copytree(FOLDER / "checkpoints", tmp_path / "checkpoints")
    vae = build()
    vae.fit(X, batch_size=5, epochs=3, verbose=0, callbacks=[tfvae.callbacks.Checkpoints(tmp_path / "checkpoints")])
    assert int(vae.optimizer.iterations) == 12
    weights = [weight for weight in vae.get_weights() if weight.dtype == np.float32]
    for found, expected in zip(weights, EXPECTED["weights_of_the_whole_training"], strict=True):
        np.testing.assert_allclose(found.ravel(), expected, rtol=TOLERANCE, atol=TOLERANCE)
