"""Saves a model to a repository of the Hugging Face Hub, with its model card."""

import re
import tempfile
from pathlib import Path
from typing import Any

import keras

from tfvae.export.card import Card, checked, head, section

_README = """{head}
# {name}

A `tfvae.{kind}`, which Keras loads with its weights where tfvae is installed:

    import keras
    import tfvae

    model = keras.saving.load_model("{address}"{own})

{section}"""


def save(model: Any, address: str, zipped: bool | None = None, card: Card | None = None) -> None:
    """Saves a model to a repository, in one commit, and prints where it is: see `StatefulModel.save`.

    Args:
        model: a `keras.Model` that is `Exportable`.
        address: "hf://<namespace>/<name>", or "hf://<name>" for a namespace of the user's own.
        zipped: must not be true.
        card: what its maker says of the model.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("The Hugging Face Hub needs huggingface_hub: pip install 'tfvae[hub]'") from error
    card = checked(card)
    if not re.fullmatch(r"hf://([\w.-]+/)?[\w.-]+", address):
        raise ValueError(f'`filepath` must be "hf://<namespace>/<name>". Received: filepath={address!r}')
    if zipped:
        raise ValueError("`zipped` must be None or False for the Hugging Face Hub. Received: zipped=True")
    if not model.built:
        raise ValueError("`model` must be built before it is saved: fit it, or call it. Received: a new model")
    api = huggingface_hub.HfApi(library_name="keras", library_version=keras.__version__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        keras.saving.save_model(model, folder, zipped=False)
        repository = api.create_repo(address.removeprefix("hf://"), exist_ok=True).repo_id
        fields: dict[str, Any] = {
            "head": head(model, card, library_name="keras"),
            "name": repository.rpartition("/")[2],
            "kind": type(model).__name__,
            "address": f"hf://{repository}",
            "own": _own(model),
            "section": section(model, card, folder),
        }
        (folder / "README.md").write_text(_README.format(**fields), encoding="utf-8")
        url = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Save a model by tfvae")
    print(f"Saved to {url}; keras.saving.load_model({fields['address']!r}{fields['own']}) loads it")


def _own(model: keras.Model) -> str:
    """The further argument of `load_model` for the user's own code, which is in no file."""
    own = model.get_config().get("own", ())
    return f", custom_objects={{{', '.join(f'{name!r}: ...' for name in own)}}}" if own else ""
