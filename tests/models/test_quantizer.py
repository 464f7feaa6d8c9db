"""Vector quantisation against brute force in NumPy, and codebooks of moving averages against k-means."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.cluster import KMeans

from tfvae import VQVAE
from tfvae.likelihoods import Normal
from tfvae.models.quantizer import Averages, Quantizer

B, P, E, K = 6, 5, 4, 7
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(B, P, E)).astype("float32")

KINDS = {
    "one": Quantizer(K, 1, 1, False),
    "levels": Quantizer(K, 3, 1, False),
    "levels that share": Quantizer(K, 3, 1, True),
    "groups": Quantizer(K, 1, 2, False),
    "levels and groups": Quantizer(K, 2, 2, False),
    "levels and groups that share": Quantizer(K, 2, 2, True),
}


def codebook_of(quantizer):
    rows = quantizer.num_tables * K
    return RNG.normal(size=(rows, E // quantizer.num_groups)).astype("float32")


def brute_force(quantizer, vectors, codebook):
    """Codes [B, P, Q], sums [B, P, E] and what each codebook is given [B, P, Q, D], from the definition."""
    width = E // quantizer.num_groups
    codes, inputs = np.zeros([B, P, quantizer.num_books], int), np.zeros([B, P, quantizer.num_books, width])
    total = np.zeros([B, P, E])
    for place in np.ndindex(B, P):
        for group in range(quantizer.num_groups):
            part = slice(group * width, (group + 1) * width)
            left = vectors[place][part].astype(float)
            for level in range(quantizer.num_levels):
                book = level * quantizer.num_groups + group
                table = group if quantizer.is_shared else book
                own = codebook[table * K : (table + 1) * K]
                code = min(range(K), key=lambda k: ((left - own[k]) ** 2).sum())
                codes[place][book], inputs[place][book] = code, left
                total[place][part] += own[code]
                left = left - own[code]
    return codes, total, inputs


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_nearest_and_stand_for_the_sum_of_their_levels(kind):
    quantizer = KINDS[kind]
    codebook = codebook_of(quantizer)
    codes, total, inputs = brute_force(quantizer, VECTORS, codebook)
    found = quantizer.quantize(tf.constant(VECTORS), tf.constant(codebook))
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.vectors, total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.inputs, inputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quantizer.look_up(found.codes, tf.constant(codebook)), total, rtol=1e-5, atol=1e-6)
    chosen = np.stack(
        [codebook[book % quantizer.num_tables * K + codes[:, :, book]] for book in range(quantizer.num_books)], axis=2
    )
    distance = ((inputs - chosen) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    np.testing.assert_allclose(found.commitment, distance, rtol=1e-5)


def test_the_gradients_of_both_distances_are_those_of_each_level():
    quantizer = KINDS["levels"]
    codebook, vectors = tf.constant(codebook_of(quantizer)), tf.constant(VECTORS)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([codebook, vectors])
        found = quantizer.quantize(vectors, codebook)
    codes, _, inputs = brute_force(quantizer, VECTORS, codebook.numpy())
    of_codes, of_vectors = np.zeros(codebook.shape), np.zeros(VECTORS.shape)
    for place in np.ndindex(B, P):
        for book in range(3):
            row = book * K + codes[place][book]
            difference = 2 * (inputs[place][book] - codebook.numpy()[row])
            of_codes[row] -= difference
            of_vectors[place] += difference
    np.testing.assert_allclose(tape.gradient(found.distance, codebook), of_codes, rtol=1e-4, atol=1e-4)
    assert tape.gradient(found.distance, vectors) is None
    np.testing.assert_allclose(tape.gradient(found.commitment, vectors), of_vectors, rtol=1e-4, atol=1e-4)
    assert tape.gradient(found.commitment, codebook) is None


@pytest.mark.parametrize("kind", ["one", "levels that share", "levels and groups"])
def test_moving_averages_are_those_of_the_paper(kind):
    quantizer, decay = KINDS[kind], 0.9
    codebook = codebook_of(quantizer).reshape(quantizer.num_tables, K, -1)
    averages = Averages(tf.constant(codebook), tf.zeros([quantizer.num_tables, K]))
    sums, numbers = np.zeros(codebook.shape), np.zeros(codebook.shape[:2])
    weights = np.array([1, 2, 0, 1, 1, 3], "float32")
    for _ in range(3):
        vectors = RNG.normal(size=(B, P, E)).astype("float32")
        flat = np.concatenate(averages.codes.numpy())
        codes, _, inputs = brute_force(quantizer, vectors, flat)
        found = quantizer.quantize(tf.constant(vectors), tf.constant(flat))
        arranged = (quantizer.by_table(each) for each in (found.codes, found.inputs))
        averages = averages.after(*arranged, tf.constant(weights), decay)
        # Equations 6 and 7 of van den Oord et al., divided by the number of vectors of a codebook.
        of_batch = weights.sum() * P * quantizer.num_books / quantizer.num_tables
        sums, numbers = decay * sums, decay * numbers
        for row, place, book in np.ndindex(B, P, quantizer.num_books):
            entry = book % quantizer.num_tables, codes[row, place, book]
            sums[entry] += (1 - decay) * weights[row] * inputs[row, place, book] / of_batch
            numbers[entry] += (1 - decay) * weights[row] / of_batch
    np.testing.assert_allclose(averages.frequencies, numbers, rtol=1e-4, atol=1e-7)
    is_used = numbers > 0
    assert is_used.any()
    expected = sums[is_used] / numbers[is_used][:, None]
    np.testing.assert_allclose(averages.codes.numpy()[is_used], expected, rtol=1e-4, atol=1e-5)
    # A code that was never the nearest stays where it is.
    np.testing.assert_array_equal(averages.codes.numpy()[~is_used], codebook[~is_used])


def test_a_batch_without_weight_changes_nothing():
    averages = Averages(tf.constant(codebook_of(KINDS["one"])[None]), tf.fill([1, K], 1 / K))
    given = tf.zeros([1, B, P], tf.int32), tf.constant(VECTORS[None])
    after = averages.after(*given, tf.zeros(B), 0.9).restarted(given[1], tf.zeros(B), 0.99, tf.constant([0, 1]))
    np.testing.assert_array_equal(after.codes, averages.codes)
    np.testing.assert_array_equal(after.frequencies, averages.frequencies)


def test_codes_that_are_hardly_used_move_to_random_inputs_of_examples_with_weight():
    frequencies = np.full([1, K], 1.0, "float32")
    frequencies[0, 2:] = 0.01
    averages = Averages(tf.constant(codebook_of(KINDS["one"])[None]), tf.constant(frequencies))
    weights = np.array([0, 1, 0, 3, 0, 0], "float32")
    found = []
    for seed in range(100):
        after = averages.restarted(tf.constant(VECTORS[None]), tf.constant(weights), 0.1, tf.constant([0, seed]))
        np.testing.assert_array_equal(after.codes[0, :2], averages.codes[0, :2])
        moved = after.codes.numpy()[0, 2:]
        places = (moved[:, None, None] == VECTORS).all(axis=-1)
        assert (places.sum(axis=(1, 2)) == 1).all()
        found += [np.argwhere(each)[0] for each in places]
        np.testing.assert_allclose(after.frequencies[0, 2:], frequencies.mean(), rtol=1e-6)
    rows, positions = np.array(found).T
    # 500 draws: the standard deviation of a share is at most 0.02.
    assert set(rows) == {1, 3}
    assert abs(np.mean(rows == 3) - 0.75) < 0.1
    assert abs(np.bincount(positions, minlength=P) / len(positions) - 1 / P).max() < 0.1


@pytest.mark.slow
def test_without_an_encoder_the_codebook_becomes_a_solution_of_k_means():
    centers = np.array([[0, 0], [6, 0], [0, 6], [6, 6], [3, 12]], "float32")
    x = (centers[np.arange(1000) % 5] + RNG.normal(size=(1000, 2))).astype("float32")[:, None]
    given, vectors = keras.Input((1, 2)), keras.Input((1, 2))
    encoder = keras.Model(given, keras.layers.Identity()(given))
    decoder = keras.Model(vectors, keras.layers.Dense(2)(vectors))
    keras.utils.set_random_seed(0)
    model = VQVAE(encoder, decoder, 5, likelihood=Normal(1.0), decay=0.5, restart_below=0.1)
    model.compile("sgd")
    # On the same batch in each step it is Lloyd's algorithm, which goes half of each way.
    model.fit(x, epochs=30, batch_size=len(x), verbose=0)
    found = model.codebook.numpy()
    best = KMeans(5, n_init=10, random_state=0, tol=0).fit(x[:, 0])
    np.testing.assert_allclose(sorted(found.tolist()), sorted(best.cluster_centers_.tolist()), atol=1e-3)
    np.testing.assert_allclose(model.frequencies.numpy().sum(), 1, rtol=1e-5)


REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from tests.models import test_quantizer
    test_quantizer.compare_replicas()
"""


def compare_replicas():
    """Trains on two replicas, by XLA and not, and on one device, and prints the weights that belong to the codes."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = (tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), tf.distribute.OneDeviceStrategy("/cpu:0"))
    x = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")
    results = []
    for strategy, jit_compile in ((strategies[0], False), (strategies[0], True), (strategies[1], False)):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            given, vectors = keras.Input((4,)), keras.Input((2, 4))
            encoder = keras.Model(given, keras.layers.Reshape((2, 4))(keras.layers.Dense(8)(given)))
            decoder = keras.Model(vectors, keras.layers.Dense(4)(keras.layers.Flatten()(vectors)))
            model = VQVAE(encoder, decoder, 6, num_levels=2, decay=0.8, restart_below=0.5)
            model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        # Batches of 5 are split into 3 + 2, and the last one into 1 + 0.
        model.fit(x, epochs=1, batch_size=5, verbose=0)
        with strategy.scope():
            history = model.fit_prior(x, epochs=1, batch_size=5, verbose=0).history
        local = [strategy.experimental_local_results(each.value) for each in (model.codebook, model.frequencies)]
        results.append(
            {
                "weights": [copies[0].numpy().ravel().tolist() for copies in local],
                "apart": max(float(np.abs(copies[0] - copies[-1]).max()) for copies in local),
                "prior": history["loss"][-1],
            }
        )
    print(json.dumps(results))


@pytest.mark.slow
def test_two_replicas_have_the_codes_of_one_device(run_python):
    *several, one = json.loads(run_python(REPLICAS, pathlib.Path(__file__).parents[2]).splitlines()[-1])
    for each in several:
        assert each["apart"] == 0
        for found, expected in zip(each["weights"], one["weights"], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert each["prior"] == pytest.approx(one["prior"], rel=0.01)
