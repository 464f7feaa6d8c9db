"""Variational inference, from data in every form to a saved file: unbiased gradients, replicas and errors."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import VariationalInference, posteriors
from tfvae.elbo import Path, Sampling
from tfvae.objectives import ELBO, IWAE

tfb, tfd = tfp.bijectors, tfp.distributions

# y ~ N(mu, 2) and mu ~ N(0, 3), so the posterior is N(MEAN, SD).
Y, PRECISION = np.random.default_rng(0).normal(1.0, 2.0, size=12).astype("float32"), 1 / 9 + 12 / 4
MEAN, SD = Y.astype(float).sum() / 4 / PRECISION, PRECISION**-0.5
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(12), 9.0 + 4.0 * np.eye(12)).logpdf(Y)


def log_joint(latents, y):
    return tfd.Normal(0.0, 3.0).log_prob(latents["mu"]), tfd.Normal(latents["mu"][:, tf.newaxis], 2.0).log_prob(y)


def in_one_piece(latents, y):
    log_prior, log_likelihood = log_joint(latents, y)
    return log_prior + tf.reduce_sum(log_likelihood, axis=1)


def unconstrained(model, num_samples):
    return model.approximation.sample(num_samples, tf.constant([0, 0]))[0].numpy()


def build(model=log_joint, latents=None, **arguments):
    return VariationalInference(model, {"mu": ()} if latents is None else latents, **arguments)


def assert_exact(model, *data):
    """Checks that q is the posterior."""
    draws = model.draw(1000, *data, seed=0)
    assert draws.elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)
    assert draws.elbo_standard_error < 0.01
    assert abs(draws["mu"].mean() - MEAN) < 4 * SD / np.sqrt(1000)


# Models and data in every form


def batched():
    mu = yield tfd.JointDistributionCoroutine.Root(tfd.Normal(0.0, 3.0, name="mu"))
    yield tfd.Sample(tfd.Normal(mu, 2.0), 12, name="y")


def single():
    mu = yield tfd.Normal(0.0, 3.0, name="mu")
    yield tfd.Normal(mu * tf.ones(12), 2.0, name="y")


NAMED = {"mu": tfd.Normal(0.0, 3.0), "y": lambda mu: tfd.Sample(tfd.Normal(mu, 2.0), 12)}
SEQUENTIAL = [tfd.Normal(0.0, 3.0, name="mu"), lambda mu: tfd.Sample(tfd.Normal(mu, 2.0), 12, name="y")]
JOINTS = {
    "named": tfd.JointDistributionNamed(NAMED),
    "sequential": tfd.JointDistributionSequential(SEQUENTIAL),
    "coroutine": tfd.JointDistributionCoroutine(batched),
    "named, batched by itself": tfd.JointDistributionNamedAutoBatched(NAMED),
    "sequential, batched by itself": tfd.JointDistributionSequentialAutoBatched(SEQUENTIAL),
    "coroutine, batched by itself": tfd.JointDistributionCoroutineAutoBatched(single),
}


# The default tests in test_targets.py compare the densities of these.
@pytest.mark.slow
@pytest.mark.parametrize("kind", JOINTS)
def test_a_pinned_joint_distribution(kind):
    model = VariationalInference(JOINTS[kind].experimental_pin(y=Y))
    history = model.fit(epochs=1, verbose=0).history
    assert history["elbo"][0] == pytest.approx(LOG_EVIDENCE, abs=0.05)
    assert history["elbo"][0] == pytest.approx(history["reconstruction_log_likelihood"][0] - history["kl"][0], rel=1e-4)
    assert_exact(model)


# By default the funnel in test_hard_inference.py is in one piece, and the other functions here give a pair.
@pytest.mark.parametrize(
    ("model", "latents"),
    [
        pytest.param(log_joint, tfd.JointDistributionNamed({"mu": tfd.Normal(0.0, 3.0)}), marks=pytest.mark.slow),
        pytest.param(in_one_piece, {"mu": ()}, marks=pytest.mark.slow),
    ],
)
def test_a_function(model, latents):
    model = build(model, latents)
    model.fit(Y, epochs=1, verbose=0)
    assert_exact(model)


def of_parts(parts):
    """A log joint for data as in `FORMS`: only the rows with k = 1 count, and k must arrive as integers."""
    x, k = parts["x"], parts["k"]
    assert x.dtype == tf.float32
    assert k.dtype in (tf.int32, tf.int64)

    def of(latents):
        log_prior, log_likelihood = log_joint(latents, x)
        return log_prior, log_likelihood * tf.cast(tf.gather([0.0, 1.0], k), tf.float32)

    return of


# Twelve rows that do not count follow, with k = 0.
X = np.concatenate([Y, Y + 100.0]).astype("float64")
K = np.repeat([1, 0], 12)
FORMS = {
    "x and y": (lambda latents, data: of_parts(dict(zip("xk", data, strict=True)))(latents), (X, K)),
    "tuple": (lambda latents, data: of_parts(dict(zip("xk", data, strict=True)))(latents), ((X, K),)),
    "dictionary": (lambda latents, data: of_parts(data)(latents), ({"x": X, "k": K},)),
    "nested": (lambda latents, data: of_parts({**data[0], "k": data[1]})(latents), ({"x": X}, K.astype("int32"))),
}


@pytest.mark.parametrize(
    ("form", "as_dataset"),
    [
        ("nested", False),
        pytest.param("x and y", True, marks=pytest.mark.slow),
        pytest.param("x and y", False, marks=pytest.mark.slow),
        pytest.param("tuple", False, marks=pytest.mark.slow),
        pytest.param("dictionary", False, marks=pytest.mark.slow),
        pytest.param("dictionary", True, marks=pytest.mark.slow),
    ],
)
def test_data_of_every_form(form, as_dataset):
    function, data = FORMS[form]
    if as_dataset:
        data = data[0] if len(data) == 1 else data
        data = (tf.data.Dataset.from_tensor_slices(data).batch(24),)
    model = build(function, num_data=24 if as_dataset else None)
    model.fit(*data, epochs=1, verbose=0)
    assert_exact(model)
    assert_exact(model, *data)
    assert model.evaluate(*data, verbose=0, return_dict=True)["elbo"] == pytest.approx(LOG_EVIDENCE, abs=0.1)


@pytest.mark.slow
def test_the_metrics_are_those_of_all_of_the_data_and_not_of_rows():
    model = build()
    history = model.fit(Y, batch_size=4, epochs=1, verbose=0).history
    divergence = np.log(3 / SD) + (SD**2 + MEAN**2) / 18 - 0.5
    assert history["kl"][0] == pytest.approx(divergence, abs=0.3)
    assert model.evaluate(Y, verbose=0, return_dict=True)["kl"] == pytest.approx(divergence, abs=0.5)
    assert model.num_data == 12


@pytest.mark.slow
def test_draws_do_not_depend_on_how_many_rows_are_computed_at_a_time(fitted):
    whole, parts = (fitted.draw(50, Y, batch_size=size, seed=0) for size in (12, 5))
    np.testing.assert_array_equal(parts["mu"], whole["mu"])
    np.testing.assert_allclose(parts.log_weights, whole.log_weights, rtol=1e-5)


# Batches


@pytest.mark.parametrize("objective", [ELBO(num_samples=3), IWAE(num_samples=3), ELBO(sticking_the_landing=True)])
def test_gradients_of_batches_are_unbiased(objective):
    """With the same noise, the weighted mean of the gradients of all batches is the gradient of all rows."""
    model = build(posterior=posteriors.DiagonalNormal(), num_data=12)
    model.approximation.posterior.loc_head.bias.assign([0.3])

    def gradients(y):
        with tf.GradientTape() as tape:
            terms = model.elbo_terms(
                tf.constant(y),
                Sampling(num_samples=3, seed=tf.constant([1, 2]), path=Path() if objective.path_gradient else None),
            )
            # IWAE is not a mean over rows: only its log weights are unbiased, not the objective.
            value = tf.reduce_mean(terms.log_weights if isinstance(objective, IWAE) else objective(terms))
        return tape.gradient(value, model.trainable_variables)

    whole = gradients(Y)
    # The last batch is smaller, as in `fit`.
    parts = [(len(part) / 12, gradients(part)) for part in np.split(Y, [5, 10])]
    for index, expected in enumerate(whole):
        found = sum(share * gradient[index] for share, gradient in parts)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(parts[0][1][0], whole[0], rtol=1e-2)


@pytest.mark.slow
def test_a_dataset_is_streamed():
    generator = np.random.default_rng(0)
    y = generator.normal(5.0, 2.0, size=8000).astype("float32")
    taken = []

    def batches():
        for start in range(0, len(y), 1000):
            taken.append(start)
            yield y[start : start + 1000]

    dataset = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([None], tf.float32))
    model = build(num_data=len(y))
    model.fit(dataset, verbose=0)
    precision = 1 / 9 + len(y) / 4
    draws = model.draw(400, seed=0)
    assert abs(draws["mu"].mean() - y.astype(float).sum() / 4 / precision) * precision**0.5 < 0.5
    assert draws["mu"].std() == pytest.approx(precision**-0.5, rel=0.2)
    assert set(taken) == set(range(0, 8000, 1000))


@pytest.mark.slow
def test_a_dataset_that_repeats_for_ever_is_taken_once_where_all_of_the_data_are_meant():
    dataset = tf.data.Dataset.from_tensor_slices(Y).batch(6).repeat()
    model = build(num_data=12)
    model.fit(dataset, epochs=1, steps_per_epoch=10, verbose=0)
    np.testing.assert_allclose(model.draw(200, seed=0).log_weights, model.draw(200, Y, seed=0).log_weights, atol=1e-4)
    with pytest.raises(ValueError, match=r"^`x` must be all of the data, num_data=12 rows.*Received: 15 rows$"):
        model.draw(200, tf.data.Dataset.from_tensor_slices(Y).repeat().batch(5))


# Replicas


CHILD = """
    import json, sys
    sys.path.insert(0, sys.argv[1])
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from tests.inference import test_variational_inference as tests
    keras.utils.set_random_seed(0)
    outcome = {}
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    # Batches whose rows two replicas do not share evenly.
    batches = tf.data.Dataset.from_tensor_slices(tests.Y).batch(5).repeat(60)
    data_of = {"data": tests.Y, "batches": batches, "no data": None}
    for name in sys.argv[2:]:
        data = data_of[name]
        with strategy.scope():
            joint = tests.JOINTS["named"].experimental_pin(y=tests.Y)
            num_data = 12 if name == "batches" else None
            model = tests.VariationalInference(joint) if data is None else tests.build(num_data=num_data)
            model.compile(keras.optimizers.Adam(0.05), steps_per_execution=20)
        # With no coordinates to start from, it is the steps that find the posterior.
        model.approximation.standardized.assign(1.0)
        history = model.fit(data, epochs=1 if name == "batches" else 2, verbose=0).history
        draws = model.draw(1000, tests.Y if name == "batches" else data, seed=0)
        outcome[name] = [float(draws.elbo), float(draws["mu"].mean()), float(draws["mu"].std()), history["elbo"][-1]]
    try:
        with strategy.scope():
            tests.build(tests.in_one_piece).fit(tests.Y, verbose=0)
    except ValueError as error:
        outcome["one piece"] = str(error)
    print(json.dumps(outcome))
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", [["batches"], ["data", "no data"]], ids=" ".join)
def test_two_replicas_find_the_posterior(names, run_python):
    outcome = json.loads(run_python(CHILD, pathlib.Path(__file__).parents[2], *names).splitlines()[-1])
    assert outcome.pop("one piece").startswith("`model` must give the pair of log p(latents)")
    for name, (value, mean, sd, last) in outcome.items():
        tolerance = 0.05 if name == "batches" else 0.01
        assert value == pytest.approx(LOG_EVIDENCE, abs=tolerance), name
        assert last == pytest.approx(LOG_EVIDENCE, abs=3.0 if name == "batches" else 0.1), name
        assert mean == pytest.approx(MEAN, abs=0.3 * SD), name
        assert sd == pytest.approx(SD, rel=0.15), name


# Files

OWN = {"model": log_joint, "latents": {"mu": ()}}


@pytest.fixture(scope="module")
def fitted():
    keras.utils.set_random_seed(0)
    model = build()
    model.fit(Y, epochs=1, verbose=0)
    return model


def test_a_file_gives_the_same_draws(fitted, tmp_path):
    fitted.save(tmp_path / "q.keras")
    loaded = keras.saving.load_model(tmp_path / "q.keras", custom_objects=OWN)
    assert loaded.num_data == 12
    assert loaded.objective == fitted.objective
    first, second = (model.draw(100, Y, seed=3) for model in (fitted, loaded))
    np.testing.assert_array_equal(second["mu"], first["mu"])
    np.testing.assert_array_equal(second.log_weights, first.log_weights)
    with pytest.raises(ValueError, match=r"^`x` must be given: a loaded model has no data.*Received: x=None"):
        loaded.draw()


# The file of a function is tested above by default.
@pytest.mark.slow
def test_a_file_of_a_joint_distribution_and_another_family(tmp_path):
    pinned = JOINTS["named"].experimental_pin(y=Y)
    model = VariationalInference(pinned, posterior=posteriors.LowRankNormal(rank=1), objective=ELBO(num_samples=4))
    model.fit(epochs=1, steps_per_epoch=10, verbose=0)
    model.save(tmp_path / "q.keras")
    loaded = keras.saving.load_model(tmp_path / "q.keras", custom_objects={"model": pinned})
    assert loaded.posterior.rank == 1
    assert loaded.objective == ELBO(num_samples=4)
    np.testing.assert_array_equal(loaded.draw(100, seed=3)["mu"], model.draw(100, seed=3)["mu"])


@pytest.mark.parametrize("given", [{}, {"model": log_joint}, {"latents": {"mu": ()}}])
def test_a_file_without_the_model_is_refused(given, fitted, tmp_path):
    fitted.save(tmp_path / "q.keras")
    missing = [name for name in OWN if name not in given]
    with pytest.raises(ValueError, match=r"`custom_objects` must hold \[.*Received: ") as error:
        keras.saving.load_model(tmp_path / "q.keras", custom_objects=given)
    assert f"must hold {missing}" in str(error.value)


def test_weights_give_the_same_draws(fitted, tmp_path):
    fitted.save_weights(tmp_path / "q.weights.h5")
    other = build()
    other.load_weights(tmp_path / "q.weights.h5")
    np.testing.assert_array_equal(unconstrained(other, 20), unconstrained(fitted, 20))


@pytest.mark.parametrize("kind", ["file", pytest.param("weights", marks=pytest.mark.slow)])
def test_a_fit_goes_on_without_standardising_again(kind, fitted, tmp_path):
    fitted.save(tmp_path / "q.keras")
    moved = keras.saving.load_model(tmp_path / "q.keras", custom_objects=OWN)
    # Coordinates that standardisation would never choose.
    moved.approximation.loc.assign([7.0])
    moved.save(tmp_path / "q.keras")
    moved.save_weights(tmp_path / "q.weights.h5")
    if kind == "file":
        other = keras.saving.load_model(tmp_path / "q.keras", custom_objects=OWN)
        assert int(other.optimizer.iterations) == 100
    else:
        other = build()
        other.load_weights(tmp_path / "q.weights.h5")
    other.fit(Y, epochs=1, steps_per_epoch=1, verbose=0)
    assert other.approximation.loc.numpy()[0] == 7.0


# Robustness


@pytest.mark.slow
def test_draws_whose_density_overflows_skip_a_step():
    def overflowing(latents, y):
        log_prior, log_likelihood = log_joint(latents, y)
        return tf.where(latents["mu"] < MEAN + 2.5 * SD, log_prior, np.nan), log_likelihood

    model = build(overflowing)
    with pytest.warns(UserWarning, match="loss was nan"):
        model.fit(Y, epochs=1, verbose=0)
    z = unconstrained(model, 1000)
    assert abs(z.mean() - MEAN) < 0.5 * SD


# A default test in test_start.py finds a badly scaled Gaussian.
@pytest.mark.slow
def test_constants_of_the_data_do_not_matter():
    # Scales that differ by ten orders of magnitude, and a constant of 1e5 nats.
    scale = np.float32(1e8)

    def badly_scaled(latents, y):
        log_prior = tfd.Normal(0.0, 3 * scale).log_prob(latents["a"]) + tfd.Normal(0.0, 0.01).log_prob(latents["b"])
        return log_prior - 1e5, tfd.Normal(latents["a"][:, None], 2 * scale).log_prob(y * scale)

    model = build(badly_scaled, {"a": (), "b": ()})
    model.fit(Y, epochs=1, verbose=0)
    draws = model.draw(2000, seed=0)
    assert abs(draws["a"].mean() / scale - MEAN) < 4 * SD / np.sqrt(2000)
    assert draws["a"].std() / scale == pytest.approx(SD, rel=0.1)
    assert draws["b"].std() == pytest.approx(0.01, rel=0.1)
    assert draws.pareto_k < 0.7


def test_the_checks_of_a_joint_distribution_cause_no_warnings_of_retracing(caplog):
    model = VariationalInference(JOINTS["named, batched by itself"].experimental_pin(y=Y))
    for _ in range(6):
        model._read(None, None, None)
    assert "retracing" not in caplog.text


def test_draws_of_a_model_that_is_not_fitted_are_refused():
    with pytest.raises(ValueError, match=r"^Fit the model before `draw\(\)`. Received: a model that is not fitted"):
        build().draw()
    with pytest.raises(ValueError, match=r"^Fit the model before `posterior_predictive\(\)`."):
        build().posterior_predictive()


def test_draws_of_a_part_of_the_data_are_refused(fitted):
    with pytest.raises(
        ValueError, match=r"^`x` must have num_data=12 rows, all of the data, as given.*Received: 6 rows"
    ):
        fitted.draw(x=Y[:6])
    with pytest.raises(ValueError, match=r"^`x` must be all of the data, num_data=12 rows.*Received: 8 rows"):
        fitted.draw(x=tf.data.Dataset.from_tensor_slices(Y).batch(4).take(2))
