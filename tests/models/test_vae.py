"""The VAE: the ways to compile it, the networks it accepts, its methods, and the parts it rejects."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfvae.models.autoencoder
from tfvae import VAE
from tfvae.likelihoods import Bernoulli, Columns, Missing, Normal
from tfvae.models.variational_model import described
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import ELBO
from tfvae.posteriors import CouplingFlow, DiagonalNormal
from tfvae.priors import StandardNormal

# Networks


class Subclassed(keras.Model):
    """A network whose `call` has no argument `training`."""

    def __init__(self, units=8):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


class SubclassedWithTraining(Subclassed):
    """A network whose output shows whether it is called for training."""

    def call(self, inputs, training=False):
        return self.dense(inputs) + (100.0 if training else 0.0)


def functional(units=8, size=4):
    inputs = keras.Input((size,))
    return keras.Model(inputs, keras.layers.Dense(units)(inputs))


NETWORKS = {
    "functional": functional,
    "Sequential": lambda units, size: keras.Sequential([keras.Input((size,)), keras.layers.Dense(units)]),
    "Sequential without Input": lambda units, size: keras.Sequential([keras.layers.Dense(units)]),
    "subclassed": lambda units, size: Subclassed(units),
    "subclassed with training": lambda units, size: SubclassedWithTraining(units),
}


# Other default tests have a network of the other kinds.
@pytest.mark.parametrize(
    "kind", [kind if kind == "subclassed" else pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS]
)
def test_any_keras_model_is_an_encoder_or_a_decoder(kind, x):
    vae = VAE(NETWORKS[kind](8, 4), NETWORKS[kind](4, 2), 2, likelihood=Normal("learned"))
    assert vae.built == (kind in ("functional", "Sequential"))
    vae.compile(keras.optimizers.SGD(0.001))
    vae.evaluate(x, verbose=0)
    assert vae.built
    assert vae.event_shape == (4,)
    start = [weight.numpy() for weight in vae.trainable_weights]
    assert len(start) == 2 + 4 + 2 + 1
    vae.train_on_batch(x)
    for weight, weight_before in zip(vae.trainable_weights, start, strict=True):
        assert not np.array_equal(weight, weight_before), weight.path
    reconstruction = vae.reconstruct(x)
    np.testing.assert_allclose(vae.predict(x, verbose=0), reconstruction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae(x), reconstruction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("network", "units"), [("encoder", 8), pytest.param("decoder", 4, marks=pytest.mark.slow)])
def test_networks_are_told_whether_they_are_trained(network, units, x, tiny_vae):
    vae = tiny_vae(**{network: SubclassedWithTraining(units)})
    vae.compile(keras.optimizers.SGD(0.0))
    trained, evaluated = vae.train_on_batch(x)[1], vae.evaluate(x, verbose=0)[1]
    assert trained < -1000 < -100 < evaluated
    assert np.abs(vae(x, training=True) - vae(x)).max() > 1
    assert max(np.abs(values).max() for values in (vae.encode(x)["loc"], vae.decode(x[:, :2]))) < 20
    assert vae.log_likelihood(x, 10).min() > -100


def test_batch_normalization_learns_its_statistics_in_fit_only(x):
    normalization = keras.layers.BatchNormalization(momentum=0.5)
    vae = VAE(keras.Sequential([keras.Input((4,)), normalization]), functional(4, 2), 2)
    vae.compile(keras.optimizers.SGD(0.0))
    for use in (vae.evaluate, vae.predict, vae.encode, vae.reconstruct, vae.log_likelihood):
        use(x)
    np.testing.assert_array_equal(normalization.moving_mean, np.zeros(4))
    vae.fit(x, batch_size=20, verbose=0)
    np.testing.assert_allclose(normalization.moving_mean, 0.5 * x.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_dropout_drops_in_training_only(x, tiny_vae):
    vae = tiny_vae(encoder=keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)]))
    np.testing.assert_array_equal(vae.encode(x)["loc"], vae.encode(x)["loc"])
    assert not np.array_equal(vae(x, training=True), vae(x, training=True))


def test_an_encoder_that_is_not_trainable_stays_as_it_is(x, tiny_vae):
    vae = tiny_vae()
    vae.encoder.trainable = False
    encoder, decoder = vae.encoder.get_weights(), vae.decoder.get_weights()
    vae.compile(keras.optimizers.SGD(0.1))
    vae.train_on_batch(x)
    for weight, weight_before in zip(vae.encoder.get_weights(), encoder, strict=True):
        np.testing.assert_array_equal(weight, weight_before)
    assert not np.array_equal(vae.decoder.get_weights()[0], decoder[0])


def test_a_part_that_is_frozen_before_it_is_built_stays_as_it_is(x, tiny_vae):
    vae = tiny_vae(
        posterior=tfvae.posteriors.DiagonalNormal(trainable=False), prior=tfvae.priors.Normal(trainable=False)
    )
    frozen = {id(weight) for part in (vae.posterior, vae.prior) for weight in part.weights}
    assert not frozen & {id(weight) for weight in vae.trainable_variables}


def test_a_posterior_that_is_frozen_is_so_in_a_file_too_until_it_is_thawed_and_compiled(x, tiny_vae, tmp_path):
    vae = tiny_vae()
    vae.encoder.trainable = vae.posterior.trainable = False
    vae.compile(keras.optimizers.Adam(0.1))
    vae.train_on_batch(x)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    for model in (vae, loaded):
        model.train_on_batch(x)
    for weight, expected in zip(loaded.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    loaded.encoder.trainable = True
    with pytest.raises(
        ValueError, match=r"^Call `compile\(\)` again, with a new optimizer, .*Received: the weights .*kernel"
    ):
        loaded.fit(x, verbose=0)


def test_an_encoder_of_images_of_any_size_is_built_by_the_first_data(x):
    layers = [keras.Input((None, None, 1)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    vae = VAE(keras.Sequential(layers), dense_decoder(2, (5, 4, 1)), 2)
    assert vae.event_shape is None
    assert vae.encode(np.zeros((2, 5, 4, 1), "float32"))["loc"].shape == (2, 2)
    assert vae.event_shape == (5, 4, 1)


# Methods


def dataset(data, batch_size):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 20, 256])
def test_encode_decode_and_reconstruct_do_not_depend_on_the_batch_size(batch_size, x, tiny_vae):
    vae = tiny_vae()
    encoded = vae.encode(x, batch_size=batch_size)
    assert {name: values.shape for name, values in encoded.items()} == {"loc": (20, 2), "scale": (20, 2)}
    for name, values in vae.posterior(vae.encoder(x)).items():
        np.testing.assert_allclose(encoded[name], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.encode(dataset((x, x), batch_size))["loc"], encoded["loc"], rtol=1e-5, atol=1e-6)
    mean = vae.decode(encoded["loc"], batch_size=batch_size)
    np.testing.assert_allclose(mean, vae.decoder(encoded["loc"]), rtol=1e-5, atol=1e-6)
    for data in (x, dataset(x, batch_size)):
        np.testing.assert_allclose(vae.reconstruct(data, batch_size=batch_size), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.zeros((5, 3)), r"`z` must have the shape \[N, 2\]. Received: z of shape \[5, 3\]"),
        (np.zeros(2), r"`z` must have the shape \[N, 2\].*Received: z of shape \[2\]"),
        (np.zeros((0, 2)), r"`z` must .*Received: z of shape"),
        (np.full((5, 2), "a"), r"`z` must .*Received: z of dtype"),
    ],
)
def test_decode_refuses_what_is_no_z(z, message, tiny_vae):
    with pytest.raises(ValueError, match=message):
        tiny_vae().decode(z)


def test_generate_is_reproducible_by_its_seed_and_new_without(tiny_vae):
    vae = tiny_vae()
    first = vae.generate(5, seed=1)
    assert first.shape == (5, 4)
    np.testing.assert_array_equal(vae.generate(5, seed=1), first)
    np.testing.assert_allclose(vae.generate(5, seed=1, batch_size=2), first, rtol=1e-5, atol=1e-6)
    others = [first, vae.generate(5, seed=2), vae.generate(5), vae.generate(5)]
    assert len({values.tobytes() for values in others}) == 4


def test_generate_decodes_draws_from_the_prior(tiny_vae):
    vae = tiny_vae(encoder=dense_encoder((2,)), decoder=dense_decoder(2, (2,), hidden=()))
    vae.decoder.set_weights([np.diag([1.0, -3.0]), np.array([0.0, 5.0])])
    draws = vae.generate(4000, seed=0)
    assert stats.kstest(draws[:, 0], "norm").pvalue > 0.01
    assert stats.kstest((draws[:, 1] - 5) / 3, "norm").pvalue > 0.01
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.05


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3", None])
def test_numbers_of_examples_and_draws_must_be_positive_integers(wrong, x, tiny_vae):
    vae = tiny_vae()
    with pytest.raises(ValueError, match=f"`n` must be an integer of at least 1. Received: n={wrong!r}"):
        vae.generate(wrong)
    with pytest.raises(ValueError, match=f"`num_samples` must be an integer of at least 1. .*num_samples={wrong!r}"):
        vae.log_likelihood(x, num_samples=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match=f"`latent_dim` must be an integer of at least 1. .*latent_dim={wrong!r}"):
            VAE(dense_encoder((4,)), dense_decoder(2, (4,)), wrong)


@pytest.mark.parametrize("seed", [1.5, "a", True, 2**31])
def test_a_seed_must_be_an_integer(seed, x, tiny_vae):
    vae = tiny_vae()
    for method in (lambda: vae.generate(2, seed=seed), lambda: vae.log_likelihood(x, seed=seed)):
        with pytest.raises(ValueError, match=f"`seed` must be an integer of 32 bits, or None. Received: seed={seed!r}"):
            method()


def test_numpy_integers_are_integers(x, tiny_vae):
    vae = tiny_vae()
    np.testing.assert_array_equal(vae.generate(np.int64(3), seed=np.int32(1)), vae.generate(3, seed=1))
    two = np.int64(2)
    np.testing.assert_array_equal(vae.log_likelihood(x, two, batch_size=two, seed=1), vae.log_likelihood(x, 2, 2, 1))


# Parts


def test_parts_that_are_not_given_are_the_standard_ones(tiny_vae):
    vae = tiny_vae()
    assert (type(vae.posterior), type(vae.prior)) == (DiagonalNormal, StandardNormal)
    assert vae.posterior.latent_dim == vae.prior.latent_dim == vae.latent_dim == 2
    assert (type(vae.likelihood), float(vae.likelihood.scale)) == (Normal, 1)
    assert vae.objective == ELBO()


def model_of(outputs):
    inputs = keras.Input((4,))
    return keras.Model(inputs, outputs(inputs))


class Forgetful(Subclassed):
    def call(self, inputs):
        self.dense(inputs)


BAD_PARTS = {
    "posterior of another kind": ({"posterior": StandardNormal()}, "`posterior` must be a Posterior.*StandardNormal"),
    "prior by name": ({"prior": "normal"}, "`prior` must be a Prior. Received: 'normal'"),
    "likelihood as a class": ({"likelihood": Normal}, "`likelihood` must be a Likelihood.*Received: <class"),
    "objective as a number": ({"objective": 1.0}, "`objective` must be an Objective. Received: 1.0"),
    "encoder missing": ({"encoder": None}, "`encoder` must be a Keras model. Received: None"),
    "encoder of rank 3": ({"encoder": model_of(keras.layers.Reshape((2, 2)))}, r"`encoder` .*shape \[None, 2, 2\]"),
    "encoder to a list": ({"encoder": model_of(lambda x: [x, x])}, "`encoder` .*gives a list of 2 outputs"),
    "encoder to a dict": ({"encoder": model_of(lambda x: {"a": x})}, "`encoder` .*gives a dict of 1 outputs"),
    "encoder to nothing": ({"encoder": Forgetful()}, "`encoder` .*None"),
    "decoder of other z": ({"decoder": functional(4, 3)}, r"`decoder` must take z of shape \[B, 2\].*\[None, 3\]"),
    "decoder to other x": ({"decoder": functional(5, 2)}, r"`decoder` .*\[None, 4\].*Normal.*shape \[None, 5\]"),
    "posterior": ({"posterior": DiagonalNormal(3)}, "`posterior` must have .*2, or None.*latent_dim=3"),
    "prior": ({"prior": StandardNormal(3)}, "`prior` must have .*2, or None.*latent_dim=3"),
}


@pytest.mark.parametrize("kind", BAD_PARTS)
def test_parts_that_do_not_fit_are_refused_at_once_or_at_the_first_data(kind, x, tiny_vae):
    arguments, message = BAD_PARTS[kind]

    def build_and_fit():
        vae = tiny_vae(**arguments)
        vae.compile()
        vae.fit(x, verbose=0)

    with pytest.raises(ValueError, match=message) as error:
        build_and_fit()
    assert "Received: " in str(error.value)


@pytest.mark.parametrize("decoder", [functional(5, 2), Subclassed(5)], ids=["functional", "subclassed"])
def test_a_model_built_by_its_data_refuses_a_decoder_to_other_data(decoder, x, lazy_vae):
    vae = lazy_vae(decoder=decoder)
    vae.compile()
    with pytest.raises(ValueError, match=r"`decoder` must give .*\[None, 4\].*Received: .*\[None, 5\]"):
        vae.fit(x, verbose=0)
    assert vae.optimizer.iterations == 0


def test_a_model_that_is_not_built_says_so_when_it_cannot_generate(lazy_vae):
    vae = lazy_vae(likelihood=Normal("learned"))
    for act in (lambda: vae.generate(3), lambda: vae.decode(np.zeros((3, 2)))):
        with pytest.raises(ValueError, match=r"buil[td]"):
            act()


@pytest.mark.parametrize("method", ["encode", "reconstruct", "log_likelihood"])
def test_the_first_data_may_be_a_dataset(method, x, lazy_vae):
    vae = lazy_vae(likelihood=Normal("learned"))
    getattr(vae, method)(dataset(x, 3))
    assert vae.event_shape == (4,)


@pytest.mark.parametrize("method", ["encode", "reconstruct", "log_likelihood"])
def test_an_empty_dataset_is_refused(method, x, tiny_vae):
    with pytest.raises(ValueError, match="`x` must hold at least one"):
        getattr(tiny_vae(), method)(dataset(x[:0], 3))


def test_the_same_seed_draws_the_same_scores(x, tiny_vae):
    vae = tiny_vae()
    first, again, other = (
        vae.score(x, seed=seed, batch_size=size)["elbo"] for seed, size in [(1, 256), (1, 3), (2, 3)]
    )
    np.testing.assert_allclose(first, again, rtol=1e-5)
    assert np.abs(first - other).min() > 0.0
    with pytest.raises(ValueError, match=r"`seed` must be None where `epsilon` is given\. Received: seed=1"):
        vae.score(x, np.zeros((20, 2)), seed=1)


def test_the_repr_says_what_the_model_is_made_of(tiny_vae, lazy_vae):
    text = repr(tiny_vae(likelihood=Normal(0.5)))
    assert text.startswith(
        "VAE(latent_dim=2, posterior=DiagonalNormal(latent_dim=2), prior=StandardNormal(latent_dim=2), "
    )
    assert "likelihood=Normal(scale=0.5), objective=ELBO(num_samples=1, " in text
    # Encoder 4 * 8 + 8, heads 2 * (8 * 2 + 2), decoder 2 * 8 + 8 + 8 * 4 + 4.
    assert text.endswith("event_shape=(4,), 136 trainable weights)")
    assert repr(lazy_vae()).endswith("not built)")


def test_the_repr_of_a_part_shows_the_parts_within_it_and_cuts_long_lists():
    columns = Columns({"a": (Normal("learned"), 2), "b": (Bernoulli(), 8)}, names=list("abcdefghij"))
    assert described(Missing(columns)) == (
        "Missing(likelihood=Columns(columns={'a': [Normal(scale='learned'), 2], 'b': [Bernoulli(), 8]}, "
        "names=['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', ... (10 in all)]), fill=True)"
    )
    assert described(CouplingFlow(3)) == "CouplingFlow(latent_dim=3, num_couplings=6, hidden=32, mixed=True)"
    assert described(keras.optimizers.Adam(1e-3)) == "Adam(learning_rate=0.001)"
    # A network as an argument of a part would fill pages.
    network = keras.saving.serialize_keras_object(keras.Sequential([keras.Input((2,))]))

    class WithNetwork(Bernoulli):
        def get_config(self):
            return {**super().get_config(), "network": network}

    assert described(WithNetwork()) == "WithNetwork(network=Sequential(...))"
