"""Models in repositories of the Hugging Face Hub."""

import hashlib
import json
import os
import re
import subprocess
import sys
import types

import pytest

from tests.helpers.exports import linear_vae
from tests.helpers.hub_server import hub
from tfvae import export

# Saves and loads a model of each kind, and prints which of its variables differ.
SCRIPT = """
import json

import keras
import numpy as np
import pandas as pd
import tensorflow_probability as tfp

import tfvae
from tests.models.test_every_model import MODELS, compiled

tfd = tfp.distributions
models = {}
for name, (build, data) in MODELS.items():
    model = compiled(build)
    model.fit(data, verbose=0)
    models[name] = model, {}

rows = pd.DataFrame({"age": np.arange(20.0), "colour": list("abcde") * 4})
table = tfvae.VAE.of_table(tfvae.data.Table.learn(rows), latent_dim=2, hidden=(4,))
table.compile(keras.optimizers.Adam(0.01))
table.fit(rows, verbose=0)
table.calibrate(rows, contamination=0.1)
models["table"] = table, {}

mean = tfd.JointDistributionNamed({"mean": tfd.Normal(0.0, 1.0)})
joint = tfd.JointDistributionNamed({"mean": tfd.Normal(0.0, 1.0), "y": lambda mean: tfd.Normal(mean, 1.0)})
pinned = joint.experimental_pin(y=2.0)
inference = tfvae.VariationalInference(pinned)
inference.fit(epochs=1, verbose=0)
models["inference"] = inference, {"model": pinned}

simulator = lambda latents, seed: latents["mean"][:, None]
amortised = tfvae.AmortizedInference(mean, simulator)
amortised.fit(amortised.simulate(64, seed=0), epochs=1, verbose=0)
models["amortised"] = amortised, {"prior": mean, "simulator": simulator}

for name, (model, own) in models.items():
    address = f"hf://you/{name}"
    model.save(address, card=tfvae.export.Card(license="mit", data=name))
    loaded = keras.saving.load_model(address, custom_objects=own)
    pairs = zip(model.variables, loaded.variables, strict=True)
    different = [old.path for old, new in pairs if not np.array_equal(old.numpy(), new.numpy())]
    print(json.dumps({"name": name, "variables": len(model.variables), "different": different}))
"""
NAMES = ["amortised", "conditional", "hierarchical", "inference", "ladder", "remembering", "semi-supervised"]
NAMES += ["sequential", "table", "vq"]


@pytest.mark.slow
@pytest.mark.extra
def test_every_kind_of_model_is_saved_to_the_hub_and_loaded_from_it(tmp_path):
    with hub() as server:
        settings = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
        # hf_xet speaks a protocol of its own; without it large files go by Git LFS.
        environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(each["name"] for each in found) == NAMES
    assert all(each["variables"] and not each["different"] for each in found)
    assert "Saved to " in done.stdout
    assert "keras.saving.load_model('hf://you/vq') loads it" in done.stdout
    # One commit for each, with its card, and nothing that could run code when it is read.
    assert server.commits == len(NAMES)
    assert server.tokens == {"Bearer hf_secret"}
    for name in NAMES:
        files = server.repositories[f"you/{name}"]
        assert set(files) == {"README.md", "config.json", "metadata.json", "model.weights.h5"}
        card = files["README.md"].decode()
        assert card.startswith("---\nlibrary_name: keras\n")
        assert "license: mit\n" in card
        assert f"- **Data:** {name}\n" in card
        assert hashlib.sha256(files["model.weights.h5"]).hexdigest() in card
    assert (
        "custom_objects={'prior': ..., 'simulator': ...})" in server.repositories["you/amortised"]["README.md"].decode()
    )


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'tfvae[hub]'")):
        linear_vae().save("hf://you/model")


@pytest.mark.parametrize(
    ("address", "arguments", "message"),
    [
        ("hf://you/model/part", {}, '`filepath` must be "hf://<namespace>/<name>". Received'),
        ("hf://", {}, '`filepath` must be "hf://<namespace>/<name>". Received'),
        ("hf://you/model", {"zipped": True}, "`zipped` must be None or False for the Hugging Face Hub. Received"),
    ],
)
def test_what_the_hub_cannot_take_is_refused_before_anything_is_sent(address, arguments, message, monkeypatch):
    # Any use of it would raise an AttributeError.
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.ModuleType("huggingface_hub"))
    with pytest.raises(ValueError, match=re.escape(message)):
        linear_vae().save(address, **arguments)


def test_a_model_without_weights_is_not_saved(lazy_vae, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.ModuleType("huggingface_hub"))
    with pytest.raises(ValueError, match="`model` must be built before it is saved"):
        lazy_vae().save("hf://you/model")


def test_a_card_is_for_the_hub_alone(tmp_path):
    with pytest.raises(ValueError, match="not supported: \\['card'\\]"):
        linear_vae().save(tmp_path / "model.keras", card=export.Card())
    assert not list(tmp_path.iterdir())
