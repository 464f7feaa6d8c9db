"""Latent variables on constrained spaces: Jacobians against quadrature and autodiff; inverses, names and shapes."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

from tfvae import Latent
from tfvae.inference.latents import describe, space, variables

tfb = tfp.bijectors
tfd = tfp.distributions

# For each kind: a latent variable, a density over its space, and the bound of |z| that holds almost all of its mass.
KNOWN = {
    "unconstrained": (Latent(), tfd.Normal(1.0, 2.0), 20.0),
    "shape alone": ((), tfd.StudentT(5.0, 0.0, 1.0), 200.0),
    "Exp": (Latent((), tfb.Exp()), tfd.Gamma(3.0, 2.0), 20.0),
    "Softplus": (Latent((), tfb.Softplus()), tfd.Gamma(3.0, 2.0), 30.0),
    "Sigmoid": (Latent((), tfb.Sigmoid()), tfd.Beta(2.0, 5.0), 20.0),
    "an interval": (Latent((), tfb.Sigmoid(-1.0, 3.0)), tfd.Uniform(-1.0, 3.0), 20.0),
    "vector": (Latent((2,), tfb.Exp()), tfd.Sample(tfd.Gamma(3.0, 2.0), 2), 9.0),
    "IteratedSigmoidCentered": (Latent((3,), tfb.IteratedSigmoidCentered()), tfd.Dirichlet([2.0, 3.0, 4.0]), 9.0),
    # Two ordered numbers have twice the density of two in any order.
    "Ascending": (Latent((2,), tfb.Ascending()), lambda x: math.log(2) + stats.norm.logpdf(x).sum(axis=-1), 9.0),
    "CorrelationCholesky": (Latent((2, 2), tfb.CorrelationCholesky()), tfd.CholeskyLKJ(2, 3.0), 30.0),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_density_over_the_unconstrained_space_integrates_to_one(kind):
    latent, known, limit = KNOWN[kind]
    latents = space({"x": latent})
    log_prob = known.log_prob if isinstance(known, tfd.Distribution) else known
    grid = np.linspace(-limit, limit, 20001 if latents.dim == 1 else 301)
    axes = [grid] * latents.dim
    z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, latents.dim)
    values, log_jacobian = latents.constrain(tf.constant(z, tf.float32))
    density = np.exp(np.asarray(log_prob(values["x"]) + log_jacobian, float)).reshape([len(grid)] * latents.dim)
    for _ in range(latents.dim):
        density = integrate.simpson(density, x=grid)
    assert density == pytest.approx(1.0, abs=1e-3)


def flat(x):
    """All numbers of a value, none of which depends on the others."""
    x = np.asarray(x)
    return x.reshape(-1)


# For each bijector: a latent variable, and the numbers of its value that determine the others.
ALL = {
    "unconstrained": (Latent((2, 3)), flat),
    "Exp": (Latent((2, 2), tfb.Exp()), flat),
    "Sigmoid": (Latent((3,), tfb.Sigmoid()), flat),
    "IteratedSigmoidCentered": (Latent((4,), tfb.IteratedSigmoidCentered()), lambda x: x[:-1]),
    "simplexes": (Latent((2, 3), tfb.IteratedSigmoidCentered()), lambda x: x[:, :-1].reshape(-1)),
    "Ascending": (Latent((4,), tfb.Ascending()), flat),
    "CorrelationCholesky": (Latent((3, 3), tfb.CorrelationCholesky()), lambda x: x[np.tril_indices(3, -1)]),
    "FillScaleTriL": (Latent((3, 3), tfb.FillScaleTriL()), lambda x: x[np.tril_indices(3)]),
}


@pytest.mark.parametrize("kind", ALL)
def test_the_jacobian_is_that_of_automatic_differentiation(kind):
    latent, free = ALL[kind]
    latents = space({"x": latent})
    z = tf.constant(np.random.default_rng(0).normal(size=(5, latents.dim)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        values, log_jacobian = latents.constrain(z)
    assert values["x"].shape == (5, *latent.shape)
    assert log_jacobian.shape == (5,)
    jacobians = tape.batch_jacobian(values["x"], z).numpy()
    for matrix, found in zip(jacobians, log_jacobian.numpy(), strict=True):
        square = np.stack([free(matrix[..., index]) for index in range(latents.dim)], axis=-1)
        assert np.linalg.slogdet(square)[1] == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_unconstrain_inverts_constrain(kind):
    latents = space({"x": ALL[kind][0], "other": Latent((2,), tfb.Exp())})
    z = np.random.default_rng(0).normal(size=(5, latents.dim)).astype("float32")
    np.testing.assert_allclose(latents.unconstrain(latents.constrain(tf.constant(z))[0]), z, atol=1e-4)


def test_values_are_in_their_spaces():
    latents = space({kind: latent for kind, (latent, _) in ALL.items()})
    values, _ = latents.constrain(tf.constant(np.random.default_rng(0).normal(size=(50, latents.dim)), tf.float32))
    assert np.all(values["Exp"] > 0)
    assert np.all((values["Sigmoid"] > 0) & (values["Sigmoid"] < 1))
    np.testing.assert_allclose(np.sum(values["simplexes"], axis=-1), 1.0, atol=1e-5)
    assert np.all(np.diff(values["Ascending"]) > 0)
    correlation = values["CorrelationCholesky"] @ tf.linalg.matrix_transpose(values["CorrelationCholesky"])
    np.testing.assert_allclose(tf.linalg.diag_part(correlation), 1.0, atol=1e-5)


def test_the_jacobian_of_several_is_the_sum_of_theirs():
    apart = [space({"a": Latent((2,), tfb.Exp())}), space({"b": Latent((3,), tfb.IteratedSigmoidCentered())})]
    together = space({"b": Latent((3,), tfb.IteratedSigmoidCentered()), "a": Latent((2,), tfb.Exp())})
    z = tf.constant(np.random.default_rng(0).normal(size=(4, 4)), tf.float32)
    values, log_jacobian = together.constrain(z)
    parts = [latents.constrain(part) for latents, part in zip(apart, tf.split(z, 2, axis=1), strict=True)]
    np.testing.assert_allclose(log_jacobian, parts[0][1] + parts[1][1], rtol=1e-5)
    np.testing.assert_allclose(values["a"], parts[0][0]["a"])
    np.testing.assert_allclose(values["b"], parts[1][0]["b"])


def test_leading_axes_are_kept():
    latents = space({"a": (), "b": Latent((3,), tfb.IteratedSigmoidCentered())})
    values, log_jacobian = latents.constrain(tf.zeros([4, 5, 3]))
    assert values["a"].shape == (4, 5)
    assert values["b"].shape == (4, 5, 3)
    assert log_jacobian.shape == (4, 5)
    constant = space({"a": ()}).constrain(tf.zeros([4, 5, 1]))[1]
    np.testing.assert_array_equal(constant, np.zeros([4, 5]))


def prior():
    yield tfd.Normal(0.0, 1.0, name="mu")
    yield tfd.LogNormal(tf.zeros(3), 1.0, name="tau")


JOINTS = {
    "named": tfd.JointDistributionNamed({"tau": tfd.Sample(tfd.LogNormal(0.0, 1.0), 3), "mu": tfd.Normal(0.0, 1.0)}),
    "coroutine": tfd.JointDistributionCoroutineAutoBatched(prior),
    "sequential": tfd.JointDistributionSequentialAutoBatched(
        [tfd.Normal(0.0, 1.0, name="mu"), tfd.LogNormal(tf.zeros(3), 1.0, name="tau")]
    ),
}


@pytest.mark.parametrize("kind", JOINTS)
def test_names_shapes_and_supports_of_a_joint_distribution(kind):
    latents = space(JOINTS[kind])
    assert latents.shapes == variables(JOINTS[kind]) == {"mu": (), "tau": (3,)}
    z = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    values, log_jacobian = latents.constrain(tf.constant(z))
    np.testing.assert_allclose(values["mu"], z[:, 0])
    assert np.all(values["tau"] > 0)
    parts = latents.split(z[0])
    np.testing.assert_array_equal(parts["tau"], z[0, 1:])
    np.testing.assert_array_equal(parts["mu"], z[0, :1])
    expected = JOINTS[kind].experimental_default_event_space_bijector().forward_log_det_jacobian
    unconstrained = tf.nest.pack_sequence_as(JOINTS[kind].dtype, [z[:, 0], z[:, 1:]])
    ranks = tf.nest.pack_sequence_as(JOINTS[kind].dtype, [0, 1])
    np.testing.assert_allclose(log_jacobian, expected(unconstrained, ranks), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tfd.JointDistributionNamed, tfd.JointDistributionNamedAutoBatched])
@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_dirichlet_has_the_bijector_of_a_simplex(make, is_pinned):
    joint = make(
        {
            "a": tfd.HalfNormal(1.0),
            "p": tfd.Dirichlet([2.0, 3.0, 4.0]),
            "rows": tfd.Sample(tfd.Dirichlet([1.0, 1.0]), 3),
            "soft": tfd.RelaxedOneHotCategorical(0.5, probs=[0.2, 0.8]),
            "y": lambda a: tfd.Normal(0.0, a),
        }
    )
    latents = space(joint.experimental_pin(y=1.0) if is_pinned else joint)
    assert latents.dim == 1 + 2 + 3 + 1 + (not is_pinned)
    z = np.random.default_rng(0).normal(size=(4, latents.dim)).astype("float32")
    values, log_jacobian = latents.constrain(tf.constant(z))
    alone = {
        "a": Latent((), tfb.Softplus()),
        "p": Latent((3,), tfb.IteratedSigmoidCentered()),
        "rows": Latent((3, 2), tfb.IteratedSigmoidCentered()),
        "soft": Latent((2,), tfb.IteratedSigmoidCentered()),
        **({} if is_pinned else {"y": ()}),
    }
    expected, expected_log_jacobian = space(alone).constrain(tf.constant(z))
    for name in ("p", "rows", "soft"):
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-5)
        np.testing.assert_allclose(tf.reduce_sum(values[name], axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(log_jacobian, expected_log_jacobian, rtol=1e-4)
    np.testing.assert_allclose(latents.unconstrain(values), z, atol=1e-3)


def test_a_point_is_described():
    values = {"mu": np.array([1.0, 2.0]), "tau": np.arange(20.0).reshape(2, 10)}
    assert describe(values, 1) == "mu=2, tau=[10. 11. ... 18. 19.]"


BAD = {
    "none": None,
    "no variable": {},
    "a distribution": tfd.Normal(0.0, 1.0),
    "a list": [()],
}


@pytest.mark.parametrize("case", BAD)
def test_what_are_no_latents_is_refused(case):
    with pytest.raises(ValueError, match=r"(?s)^`latents` must be a dictionary.*Received: latents="):
        space(BAD[case])


@pytest.mark.parametrize(
    "latent",
    [
        3,
        "a",
        (-1,),
        (None,),
        ("a",),
        Latent((), "positive"),
        Latent((), tfb.Exp),
        Latent(2, tfb.Exp()),
        Latent((), tfb.IteratedSigmoidCentered()),
        Latent((2, 3), tfb.CorrelationCholesky()),
        Latent((3,), tfb.Scale(tf.ones([2, 1]))),
    ],
)
def test_a_shape_or_bijector_that_does_not_fit_is_refused(latent):
    with pytest.raises(ValueError, match=r"(?s)^`latents\['x'\]` must be a shape.*Received: "):
        space({"x": latent})
