"""The model cards of exports."""

import hashlib
import re

import numpy as np
import pytest
import yaml

from tests.helpers.exports import linear_vae
from tfvae import export, exportable
from tfvae.export import card as card_module
from tfvae.export import serving

CARD = export.Card(
    data="made by hand",
    figures="| ELBO |\n| --- |\n| -1.5 |",
    intended_use="tests",
    limits="Nothing else.",
    command="make it",
    license="mit",
)


def parts_of(readme):
    """The entries of the head, and those of the model card by name."""
    _, head, body = readme.split("---\n", 2)
    _, section = body.split("## Model card\n")
    return yaml.safe_load(head), dict(re.findall(r"^- \*\*(.+?):\*\* (.*)$", section, re.MULTILINE))


def test_a_published_model_has_a_card_with_the_hashes_of_its_version(exported):
    version = exported("linear").version
    readme = (version.parent / "README.md").read_text()
    head, entries = parts_of(readme)
    assert head == {"tags": ["tfvae", "variational-autoencoder"]}
    assert entries["Data"] == entries["Figures"] == entries["License"] == "not stated"
    assert "posterior DiagonalNormal" in entries["Parts"]
    assert f"{sum(np.size(each) for each in exported('linear').model.export_weights()):,} weights" in entries["Parts"]
    hashes = dict(re.findall(r"^\| (\S+) \| \d+ \| `(\w+)` \|$", readme, re.MULTILINE))
    expected = {
        str(file.relative_to(version.parent)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in version.rglob("*")
        if file.is_file()
    }
    assert hashes == expected


def test_a_card_lists_the_tflite_files_that_are_beside_it_and_their_descriptions(tmp_path):
    for name in ("a.tflite", "a.json", "b.tflite", "other.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c.tflite").mkdir()
    (tmp_path / "1").mkdir()
    beside = serving._tflite_files(tmp_path)
    assert [path.name for path in beside] == ["a.tflite", "a.json", "b.tflite"]
    text = card_module.section(linear_vae(), export.Card(), tmp_path / "1", "1", beside)
    for path in beside:
        assert f"| {path.name} | {len(path.name)} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in text
    assert "when version 1 was published" in text


def test_what_a_user_named_is_text_in_markdown():
    assert exportable.as_markdown("<b>x</b> | [a](b)\n*c* `d` __e__ f_g\\") == (
        r"&lt;b&gt;x&lt;/b&gt; \| \[a\](b) \*c\* \`d\` \_\_e\_\_ f_g" + "\\\\"
    )
    assert card_module.code_span("a") == "`a`"
    assert card_module.code_span("a `` b\n<c>") == "``` a `` b <c> ```"


def test_a_card_says_what_its_maker_says(tmp_path):
    (tmp_path / "file").write_text("x")
    model = linear_vae()
    text = card_module.head(model, CARD, library_name="keras") + card_module.section(model, CARD, tmp_path, "1")
    head, entries = parts_of(text)
    assert head == {"library_name": "keras", "tags": ["tfvae", "variational-autoencoder"], "license": "mit"}
    assert (entries["Data"], entries["Intended use"], entries["License"]) == ("made by hand", "tests", "mit")
    assert entries["Limits"].endswith("lower bound on log p(x). Nothing else.")
    assert entries["Made by"].startswith("`make it`; saved by tfvae ")
    # Several lines stay within their entry, so that a table of figures is one.
    assert "\n\n  | ELBO |\n  | --- |\n  | -1.5 |\n\n- **Made by:**" in text
    assert "| 1/file | 1 | " in text


@pytest.mark.parametrize("arguments", [{"data": 3}, {"figures": {"ELBO": 1.0}}, {"license": b"mit"}])
def test_a_card_takes_texts_alone(arguments):
    (name,) = arguments
    with pytest.raises(TypeError, match=f"`{name}` must be a text or None. Received: {name}="):
        export.Card(**arguments)


def test_what_is_no_card_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"`card` must be a tfvae.export.Card or None\. Received: card='mine'"):
        export.saved_model(linear_vae(), tmp_path / "model", card="mine")
    assert not (tmp_path / "model").exists()
