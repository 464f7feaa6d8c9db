"""The learned prior of codes against enumeration of all codes: densities, draws, the bound and its training."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tfvae import VQVAE, CodePrior, callbacks, networks
from tfvae.likelihoods import Normal

K, D = 3, 4
# All codes of four places, as one codebook or two give them.
EVERY = np.array(list(itertools.product(range(K), repeat=D)))
X = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")


def prior_of(code_shape, num_books=1, **arguments):
    """A prior with random weights, which are not small."""
    keras.utils.set_random_seed(0)
    prior = CodePrior(**{"width": 8, "num_heads": 2, "num_blocks": 2, **arguments}, num_codes=K, num_books=num_books)
    prior.build((None, *code_shape))
    rng = np.random.default_rng(1)
    for weight in prior.weights:
        weight.assign(weight + 0.5 * rng.normal(size=weight.shape))
    return prior


def vqvae(**arguments):
    """A model of X with two positions of two levels, or four positions: its codes are those of `EVERY`."""
    positions = D // arguments.get("num_levels", 1)
    encoder = networks.dense_decoder(5, (positions, 2), (), name="encoder")
    vectors = keras.Input((positions, 2))
    decoder = keras.Model(vectors, keras.layers.Dense(5)(keras.layers.Flatten()(vectors)))
    model = VQVAE(encoder, decoder, K, likelihood=Normal(0.7), **arguments)
    rng = np.random.default_rng(2)
    model.codebook.assign(rng.normal(size=model.codebook.shape))
    return model


@pytest.mark.parametrize(
    ("shape", "num_books"), [((2, 2), 2), *(pytest.param(each, 1, marks=pytest.mark.slow) for each in ((D,), (2, 2)))]
)
def test_the_probabilities_of_all_codes_add_up_to_1(shape, num_books):
    log_prob = prior_of(shape, num_books).log_prob(EVERY.reshape(-1, *shape)).numpy().astype(float)
    assert np.exp(log_prob).sum() == pytest.approx(1, rel=1e-5)
    # And they are far from equal.
    assert np.ptp(log_prob) > 2


def test_no_code_depends_on_a_later_one():
    prior = prior_of((D,))
    probabilities = np.exp(prior.log_prob(EVERY).numpy().astype(float)).reshape([K] * D)
    short = prior_of((D - 1,))
    for weight, longer in zip(short.weights, prior.weights, strict=True):
        weight.assign(longer[: D - 1] if weight.shape != longer.shape else longer)
    of_short = np.exp(short.log_prob(EVERY[::K, :-1]).numpy()).reshape([K] * (D - 1))
    np.testing.assert_allclose(probabilities.sum(axis=-1), of_short, rtol=1e-4)


def test_before_its_training_it_is_the_uniform_prior():
    model, prior = vqvae(), CodePrior()
    np.testing.assert_allclose(vqvae(prior=prior).score(X)["kl"], model.score(X)["kl"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_probabilities_of_the_prior(temperature):
    prior, number = prior_of((2, 2), 2), 20000
    noise = np.random.default_rng(0).random((number, D)).astype("float32")
    drawn = tf.function(prior.sample_from)(noise, tf.constant(temperature)).numpy().reshape(-1, D).astype(int)
    counts = np.bincount(np.ravel_multi_index(drawn.T, [K] * D), minlength=K**D)
    joint = np.exp(prior.log_prob(EVERY.reshape(-1, 2, 2)).numpy().astype(float)).reshape([K] * D)
    expected = np.ones([K] * D)
    for place in range(D):
        # p(z_d | z_1, ..., z_{d-1}), whose logits are divided by the temperature.
        own = joint.sum(axis=tuple(range(place + 1, D)))
        conditional = own ** (1 / temperature)
        conditional /= conditional.sum(axis=-1, keepdims=True)
        expected *= conditional.reshape([*own.shape, *[1] * (D - 1 - place)])
    expected = expected.ravel() / expected.sum() * number
    often = expected > 5
    rest = [counts[~often].sum()], [expected[~often].sum()]
    assert stats.chisquare(np.append(counts[often], rest[0]), np.append(expected[often], rest[1])).pvalue > 1e-3


@pytest.mark.parametrize("arguments", [{}, pytest.param({"num_levels": 2}, marks=pytest.mark.slow)], ids=str)
def test_the_bound_with_a_learned_prior_is_below_the_sum_over_all_codes(arguments):
    model = vqvae(**arguments)
    prior = prior_of(model.code_shape, D // model.code_shape[0])
    model = vqvae(**arguments, prior=prior)
    every = EVERY.reshape(-1, *model.code_shape)
    log_prior = prior.log_prob(every).numpy()
    log_joint = stats.norm.logpdf(X[:, None], model.decode(every), 0.7).sum(axis=-1) + log_prior
    score, codes = model.score(X), model.encode(X).reshape(-1, D)
    assert np.all(score["elbo"] < special.logsumexp(log_joint, axis=1))
    own = np.ravel_multi_index(codes.T, [K] * D)
    np.testing.assert_allclose(score["elbo"], log_joint[np.arange(len(X)), own], rtol=1e-4)
    np.testing.assert_allclose(score["kl"], -log_prior[own], rtol=1e-4)
    np.testing.assert_allclose(model.log_likelihood(X), score["elbo"], rtol=1e-5)
    model.compile("sgd", run_eagerly=True)
    metrics = model.evaluate(X, verbose=0, return_dict=True)
    assert metrics["kl"] == pytest.approx(score["kl"].mean(), rel=1e-5)
    assert metrics["elbo"] == pytest.approx(score["elbo"].mean(), rel=1e-5)


def fitted(model, **arguments):
    """Fits a small prior, and returns the history."""
    prior, optimizer = CodePrior(8, 2, 1, dropout=0.0), keras.optimizers.Adam(0.03)
    return model.fit_prior(X, prior, batch_size=20, verbose=0, optimizer=optimizer, **arguments).history


def test_a_prior_is_fitted_to_the_codes_of_data_and_nothing_else_changes():
    model = vqvae()
    weights = [weight.numpy() for weight in model.trainable_weights]
    before = model.score(X)
    history = fitted(model, epochs=20)
    assert history["log_prob"][0] < history["log_prob"][-1]
    after = model.score(X)
    assert after["kl"].mean() < before["kl"].mean() - 0.5
    np.testing.assert_array_equal(after["reconstruction_log_likelihood"], before["reconstruction_log_likelihood"])
    for weight, expected in zip(model.trainable_weights, weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_a_fitted_prior_is_used_by_all_methods_and_is_in_files(tmp_path):
    model = vqvae()
    model.compile("adam")
    uniform = model._codes_of_noise(np.random.default_rng(0).random((500, D), np.float32))
    history = fitted(model, epochs=20, validation_data=X)
    after = model.score(X)
    assert history["val_log_prob"][-1] == pytest.approx(-after["kl"].mean(), rel=1e-5)
    # Its draws are the codes of data more often than those of the uniform prior.
    seen = {tuple(code) for code in model.encode(X)}
    drawn = model._codes_of_noise(np.random.default_rng(0).random((500, D), np.float32))
    shares = [np.mean([tuple(code) in seen for code in codes]) for codes in (drawn, uniform)]
    assert shares[0] > shares[1] + 0.1
    np.testing.assert_array_equal(model.generate(5, seed=1), model.generate(5, seed=1, batch_size=2))
    assert np.abs(model.generate(5, seed=1, temperature=0.1) - model.generate(5, seed=1)).max() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.score(X)["kl"], after["kl"])
    np.testing.assert_array_equal(loaded.generate(5, seed=1), model.generate(5, seed=1))
    # The training goes on, and leaves the prior as it is.
    of_prior = model.prior.get_weights()
    model.fit(X, verbose=0)
    for weight, expected in zip(model.prior.get_weights(), of_prior, strict=True):
        np.testing.assert_array_equal(weight, expected)
    # And it can be fitted again.
    history = model.fit_prior(X, epochs=1, verbose=0).history
    assert history["log_prob"][0] > -D * np.log(K) + 0.5


def test_a_prior_that_is_given_and_trainable_is_trained_with_the_model():
    model = vqvae(prior=CodePrior(8, 2, 1, dropout=0.0))
    model.compile("adam", run_eagerly=True)
    before = model.prior.get_weights()
    model.train_on_batch(X)
    assert any((weight != old).any() for weight, old in zip(model.prior.get_weights(), before, strict=True))


@pytest.mark.slow
def test_a_fit_of_a_prior_that_is_interrupted_goes_on_exactly(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedError

    def weights_after(folder, *more):
        keras.utils.set_random_seed(0)
        model, given = vqvae(), [callbacks.Checkpoints(folder), *more]
        model.fit_prior(X, CodePrior(8, 2, 1), epochs=4, batch_size=16, verbose=0, callbacks=given)
        return model.prior.get_weights()

    with pytest.raises(InterruptedError):
        weights_after(tmp_path / "a", Stop())
    for weight, expected in zip(weights_after(tmp_path / "a"), weights_after(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_half_precision_learns_a_prior(dtype_policy):
    single = vqvae(prior=prior_of((D,)))
    dtype_policy("mixed_bfloat16")
    prior = CodePrior(8, 2, 2)
    mixed = vqvae(prior=prior)
    mixed.set_weights(single.get_weights())
    codes = EVERY[::7]
    assert prior.log_prob(codes).dtype == tf.float32
    np.testing.assert_allclose(prior.log_prob(codes), single.prior.log_prob(codes), rtol=0.05, atol=0.2)
    mixed.fit_prior(X, epochs=1, verbose=0)
    assert np.isfinite(mixed.generate(4, seed=0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 6, "num_heads": 4}, r"`width` must be a multiple of `num_heads`\. Received: width=6, num_heads=4"),
        ({"dropout": 1.0}, r"`dropout` must be below 1\. Received: dropout=1\.0"),
        ({"num_codes": 1}, "`num_codes` must be an integer of at least 2"),
        ({"num_codes": 7}, r"`prior` must have the model's num_codes, 3, or None.*Received: a prior with num_codes=7"),
    ],
    ids=str,
)
def test_a_prior_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        vqvae(prior=CodePrior(**arguments))


def test_a_prior_of_other_codes_or_of_another_model_is_refused():
    prior = CodePrior(8, 2, 1, num_codes=3, num_books=1)
    prior.build((None, 7))
    for use in (lambda: vqvae(prior=prior), lambda: vqvae().fit_prior(X, prior, verbose=0)):
        with pytest.raises(ValueError, match=r"`prior` must have the model's code_shape, .*Received: .*=\(7,\)"):
            use()
    model = vqvae(prior=CodePrior(8, 2, 1))
    for use in (lambda: vqvae(prior=model.prior), lambda: vqvae().fit_prior(X, model.prior, verbose=0)):
        with pytest.raises(ValueError, match=r"^`prior` must be one that no other model has.*Received: .*VQVAE$"):
            use()


def test_a_fit_that_fails_leaves_the_prior_as_it_was():
    prior, model = CodePrior(8, 2, 1), vqvae()
    for arguments in ({"epochs": "many"}, {"optimizer": "none such"}):
        with pytest.raises((ValueError, TypeError)):
            model.fit_prior(X, prior, verbose=0, **arguments)
        assert prior.trainable
        assert all(block.trainable for block in prior.blocks)
        assert model.prior is None
    with pytest.raises(ValueError, match=r"^`validation_data`: .*Received: "):
        model.fit_prior(X, prior, validation_data=(X, None), verbose=0)
    weighted = tf.data.Dataset.from_tensor_slices((X, X, np.ones(len(X)))).batch(9)
    with pytest.raises(ValueError, match=r"^`x` must be a dataset without sample weights"):
        model.fit_prior(weighted, prior, verbose=0)
    with pytest.raises(ValueError, match=r"^`validation_data`: `x` must be a dataset without sample weights"):
        model.fit_prior(X, prior, validation_data=weighted, verbose=0)


def test_a_frozen_prior_has_no_dropout_in_the_training_of_the_rest():
    prior = prior_of((D,), dropout=0.9)
    codes = tf.constant(EVERY[::7])[..., tf.newaxis]
    model = vqvae(prior=prior)
    prior.trainable = False
    np.testing.assert_array_equal(model._log_prior(codes, training=True), model._log_prior(codes))
    prior.trainable = True
    assert np.abs(model._log_prior(codes, training=True) - model._log_prior(codes)).max() > 0.1


def test_wrong_arguments_of_codes_are_refused():
    with pytest.raises(ValueError, match=r"`temperature` must be 1 for the uniform prior.*Received: temperature=0\.5"):
        vqvae().generate(2, temperature=0.5)
    with pytest.raises(ValueError, match="`prior` must be a CodePrior"):
        vqvae().fit_prior(X, networks.dense_encoder((4,), (3,)))
    with pytest.raises(ValueError, match=r"`num_groups` must divide .* 2\. Received: num_groups=3"):
        vqvae(num_groups=3)
    with pytest.raises(ValueError, match=r"`restart_below` must be below 1.*Received: restart_below=1"):
        vqvae(restart_below=1)
    with pytest.raises(ValueError, match=r"`decay` must be below 1\. Received: decay=1"):
        vqvae(decay=1)
