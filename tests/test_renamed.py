"""`log_likelihood`, the earlier name of `reconstruction_log_likelihood`, still works where people use it."""

import keras
import numpy as np
import pytest

from tfvae import export, plots, renamed
from tfvae.elbo import ElboTerms, Sampling

NAMES_THE_NEW_ONE = "must be called `reconstruction_log_likelihood`"


def test_the_terms_have_the_earlier_name_with_a_warning():
    terms = ElboTerms(*"abcd")
    with pytest.warns(FutureWarning, match=NAMES_THE_NEW_ONE) as caught:
        assert terms.log_likelihood == terms.reconstruction_log_likelihood == "a"
    # The user's line, not one of tfvae.
    assert caught[0].filename == __file__


def test_a_score_has_the_earlier_name_with_a_warning(tiny_vae, x):
    score = tiny_vae().score(x)
    assert list(score) == ["elbo", "reconstruction_log_likelihood", "kl"]
    with pytest.warns(FutureWarning, match=NAMES_THE_NEW_ONE) as caught:
        found = score["log_likelihood"]
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, score["reconstruction_log_likelihood"])
    with pytest.raises(KeyError, match="log_p"):
        score["log_p"]
    with pytest.raises(KeyError, match="log_likelihood"):
        renamed.Scores(elbo=0.0)["log_likelihood"]


@pytest.mark.parametrize("rows", [3, 600])
def test_the_client_gives_both_names_for_exports_of_either_version(rows):
    for name in ("log_likelihood", "reconstruction_log_likelihood"):
        outputs = {"elbo": np.zeros(1), name: np.ones(1), "kl": np.ones(1)}
        client = export.ExportedModel(lambda *_, outputs=outputs: outputs, {"serving_default": {"x": (None, 2)}}, {})
        answer = client.run("serving_default", x=np.zeros((rows, 2)))
        assert list(answer) == ["elbo", "reconstruction_log_likelihood", "kl"]
        with pytest.warns(FutureWarning, match=NAMES_THE_NEW_ONE):
            assert answer["log_likelihood"][0] == answer["reconstruction_log_likelihood"][0] == 1


def test_the_client_leaves_a_latent_variable_of_this_name_alone():
    outputs = {"log_likelihood": np.ones(1)}
    client = export.ExportedModel(lambda *_: outputs, {"sample": {"epsilon": (None, 2)}}, {})
    assert client.sample(np.zeros((1, 2))) == outputs


@pytest.mark.parametrize(
    ("prefix", "make"),
    [
        pytest.param("", list, marks=pytest.mark.slow),
        ("val_", lambda callbacks: keras.callbacks.CallbackList(callbacks, add_history=True)),
    ],
)
def test_a_callback_that_monitors_the_earlier_name_monitors_the_new_one(prefix, make, x, known_model):
    # With a learning rate of 0 nothing improves.
    stop = keras.callbacks.EarlyStopping(f"{prefix}log_likelihood", patience=2, mode="max")
    model = known_model()
    callbacks = make([stop])
    with pytest.warns(FutureWarning, match=f"{NAMES_THE_NEW_ONE}.*monitor='{prefix}log_likelihood' of EarlyStopping"):
        history = model.fit(x, validation_data=x, epochs=9, verbose=0, callbacks=callbacks)
    assert len(history.epoch) == 3
    assert stop.best == pytest.approx(x[:, 0].mean(), rel=1e-5)
    # The second time it has the new name.
    model.fit(x, validation_data=x, epochs=1, verbose=0, callbacks=callbacks)


def test_a_history_of_an_earlier_version_is_drawn():
    (axes,) = plots.history({"log_likelihood": [1.0, 2.0], "val_log_likelihood": [0.0, 1.0]}).axes
    assert axes.get_ylabel().startswith("Reconstruction\nlog-likelihood")
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 2.0], [0.0, 1.0]]


def test_only_the_names_of_the_metric_change():
    names = ["log_likelihood", "val_log_likelihood", "negative_log_likelihood", "elbo"]
    expected = ["reconstruction_log_likelihood", "val_reconstruction_log_likelihood", *names[2:]]
    assert [renamed.metric(name) for name in names] == expected


def test_the_terms_and_the_metric_have_one_name(known_model, x):
    model = known_model()
    terms = model.elbo_terms(x, Sampling(1, (0, 0)))
    value = model.evaluate(x, return_dict=True, verbose=0)[renamed.NEW]
    assert value == pytest.approx(np.mean(getattr(terms, renamed.NEW)), rel=1e-5)
