"""What variational inference rejects before the first step, and the difficult posteriors that it must survive."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.inference.test_variational_inference import LOG_EVIDENCE, Y, build, in_one_piece, log_joint, unconstrained
from tfvae import Latent, VariationalInference, posteriors
from tfvae.callbacks import Convergence

tfb = tfp.bijectors
tfd = tfp.distributions


# Errors before the first step


def nan(latents, y):
    return log_joint(latents, y)[0] * np.nan, log_joint(latents, y)[1]


def negative_scale(latents, y):
    return tfd.Normal(0.0, 3.0).log_prob(latents["mu"]), tfd.Normal(0.0, latents["mu"][:, None]).log_prob(y)


def unknown(latents, y):
    return log_joint({"mu": latents["nu"]}, y)


WEIGHTED = tf.data.Dataset.from_tensor_slices((Y, Y, Y)).batch(4)
DATASET = tf.data.Dataset.from_tensor_slices(Y).batch(4)
BAD = {
    "a wrong shape": ({"model": lambda latents, y: log_joint(latents, y)[1]}, {"x": Y}, "`model` must give the log"),
    "NaN": ({"model": nan}, {"x": Y}, "`model` must have a log joint density that is never NaN"),
    "a scale without a bijector": ({"model": negative_scale}, {"x": Y}, "`model` must have a log joint density"),
    "a flat latent": ({"latents": {"mu": (), "nu": ()}}, {"x": Y}, "`model` must have a posterior that is proper"),
    "an unknown name": ({"model": unknown}, {"x": Y}, "`model` must take the names of `latents`"),
    "num_data is missing": ({}, {"x": DATASET}, "`num_data`, the number of rows"),
    "batches in one piece": ({"model": in_one_piece}, {"x": Y, "batch_size": 4}, "`model` must give the pair"),
    "a dataset in one piece": ({"model": in_one_piece, "num_data": 12}, {"x": DATASET}, "`model` must give the pair"),
    "a dataset with weights": ({"num_data": 12}, {"x": WEIGHTED}, "`x` must be a dataset of x or"),
    "sample_weight": ({}, {"x": Y, "sample_weight": Y}, "`sample_weight` must be None"),
    "class_weight": ({}, {"x": Y, "class_weight": {0: 1.0}}, "`class_weight` must be None"),
    "validation_data": ({}, {"x": Y, "validation_data": (Y, Y)}, "`validation_data` must be None"),
    "validation_data, an array": ({}, {"x": Y, "validation_data": Y}, "`validation_data` must be None"),
    "validation_split": ({}, {"x": Y, "validation_split": 0.1}, "`validation_split` must be None"),
    "no rows": ({}, {"x": Y[:0]}, "`x` must hold at least one example"),
    "no batch": ({"num_data": 12}, {"x": DATASET.take(0)}, "`x` must hold at least one batch"),
    "y without x": ({}, {"y": Y}, "`x` must be the data"),
    "NaN in the data": ({}, {"x": Y * np.nan}, "`x` must be finite"),
    "NaN in a dataset": ({"num_data": 12}, {"x": DATASET.map(lambda y: y * np.nan)}, "`x` must be finite"),
    "other num_data": ({"num_data": 13}, {"x": Y}, "`x` must have num_data=13 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_fitted_is_refused_before_a_step(case):
    arguments, data, message = BAD[case]
    model = build(**arguments)
    before = unconstrained(model, 5)
    with pytest.raises(ValueError, match=rf"(?s)^{message}.*Received: [^:]+"):
        model.fit(**data, epochs=1, verbose=0)
    np.testing.assert_array_equal(unconstrained(model, 5), before)
    assert not model.compiled or int(model.optimizer.iterations) == 0


def test_data_that_are_missing_are_refused():
    with pytest.raises(ValueError, match=r"^`x` must be the data.*Received: x=None"):
        build(num_data=12).fit(verbose=0)


ARGUMENTS = {
    "model": ({"model": 3}, "`model` must be a joint distribution"),
    "latents": ({"latents": {}}, "`latents` must be a dictionary"),
    "num_data": ({"num_data": 0}, "`num_data` must be an integer"),
    "posterior": ({"posterior": "full"}, "`posterior` must be a Posterior"),
    "latent_dim": ({"posterior": posteriors.DiagonalNormal(3)}, "`posterior` must have latent_dim=1"),
    "objective": ({"objective": "elbo"}, "`objective` must be an? Objective"),
    "local": ({"local": 3}, "`local` must be a tfvae.LocalLatents"),
    "predictive": ({"predictive": 3}, "`predictive` must be a function"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_checked(case):
    arguments, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=rf"(?s)^{message}.*Received: "):
        build(**arguments)


# Difficult posteriors


@pytest.mark.slow
def test_a_funnel_is_fitted_and_flagged():
    # A centred hierarchical model, whose density is unbounded in the neck of its funnel.
    effect, error = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]

    def centred(latents, _):
        theta, tau = latents["theta"], latents["tau"]
        prior = tfd.Normal(0.0, 5.0).log_prob(latents["mu"]) + tfd.HalfCauchy(0.0, 5.0).log_prob(tau)
        rows = tfd.Normal(latents["mu"][:, None], tau[:, None]).log_prob(theta) + tfd.Normal(theta, error).log_prob(
            effect
        )
        return prior + tf.reduce_sum(rows, axis=1)

    model = VariationalInference(centred, {"mu": (), "tau": Latent((), tfb.Exp()), "theta": (8,)})
    with pytest.warns(UserWarning, match=r"k-hat is \d"):
        model.fit(callbacks=[Convergence(tolerance=1.0)], verbose=0)
    with pytest.warns(UserWarning, match=r"k-hat is \d"):
        draws = model.draw(4000, seed=0)
    # The log evidence of eight schools is -31.3.
    assert -34.0 < draws.elbo < -31.3
    assert draws.pareto_k > 0.7


@pytest.mark.slow
def test_a_callback_that_is_there_is_not_added_again():
    model = build()
    history = model.fit(Y, callbacks=Convergence(tolerance=0.5), verbose=0)
    assert len(history.epoch) >= 8
    with pytest.warns(UserWarning, match="^q has not converged to a tolerance of 1e-09"):
        model.fit(Y, epochs=4, callbacks=[Convergence(tolerance=1e-9)], verbose=0)


def test_data_for_a_model_that_has_its_own_are_refused():
    pinned = tfd.JointDistributionNamedAutoBatched({"a": tfd.Normal(0.0, 1.0), "y": lambda a: tfd.Normal(a, 1.0)})
    model = VariationalInference(pinned.experimental_pin(y=1.0))
    with pytest.raises(ValueError, match=r"^`x` must be None where the data are pinned\. Received: x of type ndarray$"):
        model.fit(np.zeros(3, np.float32))


def test_what_a_density_raises_is_told_with_what_it_was_given():
    model = VariationalInference(lambda latents: latents["a"], {"a": ()})
    with pytest.raises(ValueError, match=r"(?s)^`model` must take float32.*'a': \[3\].*raised TypeError: "):
        model.fit(verbose=0)


def test_a_posterior_that_float32_cannot_resolve_is_refused():
    y = tf.constant(1e7 + np.random.default_rng(0).normal(size=100), tf.float32)
    model = VariationalInference(
        lambda latents, _: tf.reduce_sum(tfd.Normal(latents["m"][:, None], 1.0).log_prob(y), axis=1), {"m": ()}
    )
    with pytest.raises(
        ValueError, match=r"^`model` must have a posterior that float32 can resolve.*of m.*Received: a pos"
    ):
        model.fit(epochs=1, verbose=0)


@pytest.mark.slow
def test_a_family_of_ones_own_may_have_a_weight_that_is_not_used():
    class Own(posteriors.DiagonalNormal):
        def build(self, input_shape):
            super().build(input_shape)
            self.unused = self.add_weight(name="unused", shape=())

    model = build(posterior=Own())
    with warnings.catch_warnings():
        # Keras warns that the weight has no gradient.
        warnings.simplefilter("ignore", UserWarning)
        model.fit(Y, epochs=1, verbose=0)
    assert model.draw(2000, seed=0).elbo == pytest.approx(LOG_EVIDENCE, abs=0.01)
