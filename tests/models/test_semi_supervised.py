"""The semi-supervised VAE: against a linear model whose log p(x) and log p(x, y) are known; its data and exports."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import SemiSupervisedVAE, export, networks
from tfvae.elbo import Sampling
from tfvae.export import device
from tfvae.export.endpoints import Endpoints
from tfvae.likelihoods import Missing, Normal
from tfvae.objectives import ELBO, IWAE, FreeBits

D, K, SCALE = 3, 4, 0.5
# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)
LABEL_PRIOR = (0.1, 0.2, 0.3, 0.4)


def data(n=40):
    generator = np.random.default_rng(0)
    return {"x": generator.normal(size=(n, D)).astype("float32"), "label": generator.integers(-1, K, size=n)}


def build(latent_dim=1, hidden=(), **arguments):
    return SemiSupervisedVAE(
        networks.dense_encoder((D,), hidden, condition_dim=K),
        networks.dense_decoder(latent_dim, (D,), hidden, condition_dim=K),
        networks.dense_decoder(D, (K,), hidden, name="classifier"),
        latent_dim,
        K,
        likelihood=Normal(SCALE),
        **arguments,
    )


def exact(**arguments):
    """A mixture of K normals with equal covariances and exact posteriors, and log p(x, y) [N, K] as a function of x.

    x|z,y ~ N(W z + a_y, SCALE^2 I). The covariance of x|y is the same for every y, so q(y|x) is a linear softmax.
    """
    generator = np.random.default_rng(1)
    w, a = generator.normal(size=(1, D)), generator.normal(size=(K, D))
    vae = build(label_prior=LABEL_PRIOR, **arguments)
    vae.decoder.set_weights([np.concatenate([w, a]), np.zeros(D)])
    variance = 1 / ((w @ w.T).item() / SCALE**2 + 1)
    vae.posterior.loc_head.set_weights([np.concatenate([w.T, -a @ w.T]) * variance / SCALE**2, np.zeros(1)])
    raw = np.log(np.expm1(np.sqrt(variance))) - SHIFT
    vae.posterior.scale_head.set_weights([np.zeros((D + K, 1)), np.array([raw])])
    covariance = w.T @ w + SCALE**2 * np.eye(D)
    precision = np.linalg.inv(covariance)
    offsets = np.log(LABEL_PRIOR) - 0.5 * np.einsum("ki,ij,kj->k", a, precision, a)
    vae.classifier.set_weights([precision @ a.T, offsets])

    def log_joint(x):
        normal = stats.multivariate_normal(np.zeros(D), covariance)
        return np.stack([normal.logpdf(x - a[y]) + np.log(LABEL_PRIOR[y]) for y in range(K)], axis=-1)

    return vae, log_joint


def expected_bound(log_joint, given):
    """log p(x, y) for examples with a label, and log p(x) for those without."""
    joint = log_joint(given["x"])
    labelled = np.take_along_axis(joint, np.maximum(given["label"], 0)[:, None], axis=1)[:, 0]
    return np.where(given["label"] < 0, special.logsumexp(joint, axis=1), labelled)


def tensors(given):
    return {"x": tf.constant(given["x"]), "label": tf.constant(given["label"], tf.float32)}


@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_bound_is_exact_under_the_exact_posteriors(num_samples):
    vae, log_joint = exact()
    given = data()
    assert {-1, 0, 1, 2, 3} == set(given["label"])
    expected = expected_bound(log_joint, given)
    terms = vae.elbo_terms(
        tensors(given), Sampling(num_samples=num_samples, seed=tf.constant([0, 1]), analytic_kl=False)
    )
    np.testing.assert_allclose(terms.elbo, expected, rtol=1e-4)
    np.testing.assert_allclose(ELBO(num_samples=num_samples)(terms), expected, rtol=1e-4)
    np.testing.assert_allclose(IWAE(num_samples=num_samples)(terms), expected, rtol=1e-4)
    np.testing.assert_allclose(vae.log_likelihood(given, num_samples), expected, rtol=1e-4)
    np.testing.assert_allclose(vae.classify(given["x"]), special.softmax(log_joint(given["x"]), axis=1), atol=1e-5)


@pytest.mark.slow
def test_off_the_exact_posteriors_it_is_a_lower_bound_that_the_kl_divergences_explain():
    vae, log_joint = exact()
    given = data(400)
    logits = vae.classifier.layers[-2].bias
    logits.assign(logits + np.array([1.0, 0.0, -1.0, 0.5]))
    bias = vae.posterior.loc_head.bias
    bias.assign(bias + 0.2)
    variance = float(vae.posterior(vae.encoder([given["x"][:1], np.eye(K)[:1]]))["scale"][0, 0]) ** 2
    q, p = vae.classify(given["x"]), special.softmax(log_joint(given["x"]), axis=1)
    # KL(q(z|x, y) || p(z|x, y)) of two normals that differ in the mean only, plus KL(q(y|x) || p(y|x)).
    gap = 0.2**2 / (2 * variance) + np.where(given["label"] < 0, np.sum(q * np.log(q / p), axis=1), 0)
    terms = vae.elbo_terms(tensors(given), Sampling(num_samples=500, seed=tf.constant([0, 1])))
    expected = expected_bound(log_joint, given) - gap
    # The KL is in closed form, so the noise is that of log p(x|y, z).
    error = np.std(terms.reconstruction_log_likelihood, axis=0) / np.sqrt(500)
    assert np.all(np.abs(terms.elbo - expected) < 5 * error + 1e-4)
    of_labels = np.sum(q * np.log(q / LABEL_PRIOR), axis=1)
    of_labels = np.where(given["label"] < 0, of_labels, -np.log(LABEL_PRIOR)[given["label"]])
    np.testing.assert_allclose(terms.metrics["kl_z"], terms.kl - of_labels, rtol=1e-4, atol=1e-4)
    # The sum over labels is exact, so q(y|x) does not affect the importance-weighted estimate.
    estimate = vae.log_likelihood(given, 2000, seed=0)
    np.testing.assert_allclose(estimate, expected_bound(log_joint, given), atol=0.1)


def test_the_objective_adds_the_loss_of_the_classifier_where_there_is_a_label():
    given = data()
    labelled = given["label"] >= 0
    vae, log_joint = exact(alpha=3.0, objective=IWAE(20))
    vae.compile(keras.optimizers.SGD(0.0))
    metrics = vae.evaluate(given, verbose=0, return_dict=True, batch_size=7)
    log_q = np.log(special.softmax(log_joint(given["x"]), axis=1))
    loss = -expected_bound(log_joint, given)
    loss[labelled] -= 3.0 * log_q[labelled, given["label"][labelled]]
    np.testing.assert_allclose(metrics["loss"], loss.mean(), rtol=1e-4)
    # The metric is still a bound, without the classifier's part of the loss.
    np.testing.assert_allclose(metrics["elbo"], expected_bound(log_joint, given).mean(), atol=0.5)
    accuracy = np.mean(log_q.argmax(axis=1)[labelled] == given["label"][labelled])
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)
    assert 0 < accuracy < 1
    weighted = vae.evaluate(given, sample_weight=labelled * 2.0, verbose=0, return_dict=True)
    np.testing.assert_allclose(weighted["accuracy"], accuracy, rtol=1e-6)
    unlabelled = {"x": given["x"], "label": np.full(40, -1)}
    assert np.isnan(vae.evaluate(unlabelled, verbose=0, return_dict=True)["accuracy"])


def test_gradients_are_those_of_the_sum_over_labels():
    vae, log_joint = exact(alpha=0.0)
    given = data(30)
    given["label"][:] = -1
    with tf.GradientTape() as tape:
        terms = vae.elbo_terms(tensors(given), Sampling(num_samples=2000, seed=tf.constant([3, 4])))
        loss = tf.reduce_mean(terms.elbo)
    kernel, _ = vae.classifier.trainable_weights
    decoder_bias = vae.decoder.trainable_weights[1]
    of_classifier, of_bias = tape.gradient(loss, [kernel, decoder_bias])
    # At the exact posteriors the bound is stationary in q, and its gradient in p is that of log p(x).
    np.testing.assert_allclose(of_classifier, np.zeros((D, K)), atol=0.02)
    step = 1e-4
    numeric = [
        (
            special.logsumexp(log_joint(given["x"] - step * e), axis=1).mean()
            - special.logsumexp(log_joint(given["x"] + step * e), axis=1).mean()
        )
        / (2 * step)
        for e in np.eye(D)
    ]
    np.testing.assert_allclose(of_bias, numeric, atol=0.05)


def test_methods_use_the_label_or_the_most_probable_one():
    vae = build(latent_dim=2, hidden=(4,))
    given = data(9)
    likely = vae.classify(given).argmax(axis=1)
    filled = {**given, "label": np.where(given["label"] < 0, likely, given["label"])}
    for method in (vae.encode, vae.score):
        for name, values in method(given).items():
            np.testing.assert_array_equal(values, method(filled)[name])
    reconstruction = vae.reconstruct(given)
    np.testing.assert_allclose(vae.decode(vae.encode(given)["loc"], filled["label"]), reconstruction, atol=1e-5)
    np.testing.assert_allclose(vae.predict(given, verbose=0), reconstruction, rtol=1e-5, atol=1e-6)
    score = vae.score(given)
    np.testing.assert_allclose(score["elbo"], score["reconstruction_log_likelihood"] - score["kl"], rtol=1e-5)
    dataset = tf.data.Dataset.from_tensor_slices(given).batch(4)
    np.testing.assert_allclose(vae.classify(dataset), vae.classify(given["x"], batch_size=2), rtol=1e-5)
    generated = vae.generate([0, 1, 2, 3], seed=0)
    assert generated.shape == (4, D)
    np.testing.assert_array_equal(vae.generate(np.arange(4), seed=0), generated)


def test_score_is_the_bound_of_the_joint_density_at_the_label():
    vae, log_joint = exact()
    given = data()
    epsilon = np.random.default_rng(5).normal(size=(3000, 1)).astype("float32")
    many = {"x": np.repeat(given["x"][:1], 3000, axis=0), "label": np.full(3000, 2)}
    np.testing.assert_allclose(vae.score(many, epsilon)["elbo"].mean(), log_joint(given["x"])[0, 2], atol=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (data()["x"], '`x` must be a dictionary with the keys "x" and "label". Received: x of type ndarray'),
        ({**data(), "label": np.full(40, 4)}, "from 0 to 3, and -1 for none. Received: label with the value 4"),
        ({**data(), "label": np.full(40, -2)}, "Received: label with the value -2"),
        (
            {**data(), "label": np.zeros(40)},
            "`label` must hold integers from 0 to 3, and -1 for none. Received: label of",
        ),
        ({**data(), "label": np.eye(4, dtype=int)[[0] * 40]}, "`label` must have the shape [N]"),
        ({**data(), "label": np.zeros(39, int)}, "`x` and `label` must have the same number of examples"),
        ({**data(), "x": np.ones((40, 4), "float32")}, "`x` must have the shape [N, 3]"),
    ],
    ids=["array", "4", "-2", "floats", "one-hot", "rows", "x"],
)
def test_wrong_data_are_refused_before_any_step(wrong, message):
    vae = build()
    vae.compile("sgd")
    for method in (vae.fit, vae.evaluate, vae.encode, vae.log_likelihood, vae.score):
        with pytest.raises(ValueError, match=re.escape(message)):
            method(wrong)
    assert int(vae.optimizer.iterations) == 0


@pytest.mark.slow
def test_a_wrong_label_in_a_later_batch_makes_no_number_of_the_loss():
    vae, given = build(), data(20)
    vae.compile("adam")
    given["label"][15] = K
    batches = tf.data.Dataset.from_tensor_slices(given).batch(10)
    assert np.isnan(vae.evaluate(batches, verbose=0, return_dict=True)["loss"])
    given["label"][15] = -1
    batches = tf.data.Dataset.from_tensor_slices(given).batch(10)
    assert np.isfinite(vae.fit(batches, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in vae.get_weights())


def test_objectives_that_need_each_dimension_of_z_are_refused():
    expected = r"^`objective` must be one that does not need the draws.*for a SemiSupervisedVAE.*objective=FreeBits\("
    with pytest.raises(ValueError, match=expected):
        build(objective=FreeBits())


def test_wrong_labels_are_refused_by_decode_and_generate():
    vae = build()
    with pytest.raises(ValueError, match=r"`label` must hold integers from 0 to 3\. Received: label with the value -1"):
        vae.generate([0, -1])
    with pytest.raises(ValueError, match="`z` and `label` must have the same number of examples"):
        vae.decode(np.ones((3, 1)), [0, 1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"alpha": -1.0}, "`alpha` must be a finite number of at least 0"),
        ({"label_prior": (0.5, 0.5)}, "`label_prior` must hold 4 positive probabilities that sum to 1"),
        ({"label_prior": (0.5, 0.5, 0.5, 0.5)}, "`label_prior` must hold 4 positive probabilities"),
        ({"objective": ELBO(sticking_the_landing=True)}, "which a SemiSupervisedVAE does not have"),
        ({"likelihood": Missing(Normal("optimal"))}, "`likelihood` must not compute its scale from the batch"),
        ({"classifier": networks.dense_decoder(D, (5,))}, "`classifier` must give logits [B, 4]"),
        ({"classifier": None}, "`classifier` must be a Keras model"),
        ({"num_classes": 1}, "`num_classes` must be an integer of at least 2"),
        ({"encoder": networks.dense_encoder((D,))}, "`encoder` must take the list of x and the condition [B, 4]"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(other, message):
    arguments = {
        "encoder": networks.dense_encoder((D,), condition_dim=K),
        "decoder": networks.dense_decoder(2, (D,), condition_dim=K),
        "classifier": networks.dense_decoder(D, (K,)),
        "latent_dim": 2,
        "num_classes": K,
        **other,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        SemiSupervisedVAE(**arguments)


# A TFLite file with labels is written by default, and so compared, in export/test_tflite_metadata.py.
@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_an_export_classifies_and_takes_labels(file_format, tmp_path):
    vae = build(latent_dim=2, hidden=(8,), label_prior=LABEL_PRIOR)
    vae.set_weights([w + 0.2 * np.random.default_rng(2).normal(size=w.shape) for w in vae.get_weights()])
    given = data(7)
    assert -1 in given["label"]
    exported = export.load(getattr(export, file_format)(vae, tmp_path / "model.tflite", x=given))
    epsilon = np.random.default_rng(4).normal(size=(7, 2)).astype("float32")
    np.testing.assert_allclose(exported.classify(given["x"]), vae.classify(given["x"]), atol=1e-5)
    np.testing.assert_allclose(exported.encode(**given)["loc"], vae.encode(given)["loc"], atol=1e-5)
    np.testing.assert_allclose(exported.reconstruct(**given), vae.reconstruct(given), atol=1e-5)
    labels = given["label"] % K
    np.testing.assert_allclose(exported.generate(epsilon, label=labels), vae.decode(epsilon, labels), atol=1e-5)
    for name, values in vae.score(given, epsilon).items():
        np.testing.assert_allclose(exported.score(**given, epsilon=epsilon)[name], values, rtol=1e-4, atol=1e-4)
    for wrong in (K, -2, 0.5):
        with pytest.raises(ValueError, match=r"^`label` must hold integers from -1 to 3\. Received: label with"):
            exported.reconstruct(given["x"], label=np.full(7, wrong))
    with pytest.raises(ValueError, match=r"^`label` must hold integers from 0 to 3\. Received: .* value -1$"):
        exported.decode(epsilon, label=np.full(7, -1))


# The test above has them for the comparison of an export.
@pytest.mark.slow
def test_data_without_labels_serve_the_calibration_of_an_export():
    vae, given = build(latent_dim=2, hidden=(8,)), data(7)
    assert -1 in given["label"]
    for signature, inputs in device._calibration(vae, given, None, Endpoints(vae)):
        assert signature not in ("decode", "generate") or inputs["label"] >= 0
