"""The callback that draws while a model trains, and changes nothing of the training."""

import numpy as np
import pytest
from PIL import Image

import tfvae
from tfvae.callbacks import Pictures


@pytest.fixture
def fitted(tiny_vae, x):
    import keras

    def fit(callbacks=(), epochs=3):
        keras.utils.set_random_seed(0)
        model = tiny_vae()
        model.compile("adam")
        model.fit(x, batch_size=20, epochs=epochs, verbose=0, callbacks=list(callbacks))
        return model

    return fit


@pytest.mark.slow
def test_pictures_are_drawn_every_few_epochs_and_at_the_end_and_change_no_weight(fitted, x, tmp_path):
    model = fitted([Pictures(4 * x, tmp_path, every=2)])
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["epoch_0002", "epoch_0003"]
    names = {path.name for path in (tmp_path / "epoch_0003").iterdir()}
    assert {"reconstructions.png", "samples.png"} <= names <= {"reconstructions.png", "samples.png", "traversals.png"}
    assert Image.open(tmp_path / "epoch_0003/samples.png").size[0] > 300
    for drawn, plain in zip(model.get_weights(), fitted().get_weights(), strict=True):
        np.testing.assert_array_equal(drawn, plain)


@pytest.mark.slow
def test_tensorboard_gets_the_pictures(fitted, x, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted([Pictures(x, log_dir=tmp_path, every=1)], epochs=2)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert {"reconstructions", "samples"} <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("samples")] == [1, 2]


def test_errors(x, known_model):
    for arguments, message in (
        ({"x": x}, r"`folder` or `log_dir` must be given"),
        ({"x": x[:1], "folder": "a"}, r"`x` must hold at least 2 examples"),
        ({"x": x, "folder": "a", "every": 0}, r"`every` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Pictures(**arguments)
    callback = Pictures(x, "a")
    callback.set_model(known_model())
    with pytest.raises(ValueError, match=r"`Pictures` needs a tfvae\.VAE"):
        callback.on_train_begin()
    assert tfvae.callbacks.Pictures is Pictures
