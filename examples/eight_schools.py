"""Eight schools (Rubin 1981): the effect of coaching on test scores, estimated by a hierarchical model.

    python examples/eight_schools.py

Each school's measured effect has a known standard error; the true effects come from one normal distribution, whose mean
and spread are not known. The model is written with TFP, and nothing is tuned.
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae

tfd = tfp.distributions

effect = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
standard_error = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]

schools = tfd.JointDistributionNamedAutoBatched(
    {
        "mu": tfd.Normal(0.0, 5.0),
        "tau": tfd.HalfCauchy(0.0, 5.0),
        # Non-centred: the effect of a school is mu + tau * z.
        "z": tfd.Sample(tfd.Normal(0.0, 1.0), 8),
        "y": lambda mu, tau, z: tfd.Independent(tfd.Normal(mu + tau * z, standard_error), 1),
    }
)


def main() -> None:
    """Fits a normalizing flow, and prints its estimates and how far to trust them."""
    keras.utils.set_random_seed(0)
    posterior = tfvae.posteriors.CouplingFlow()
    inference = tfvae.VariationalInference(schools.experimental_pin(y=effect), posterior=posterior)
    inference.fit(verbose=0)
    draws = inference.draw(10_000, seed=0)
    print(draws.summary().round(2))
    print(f"ELBO {draws.elbo:.2f} +- {draws.elbo_standard_error:.2f}, log p(y) about {draws.log_evidence:.2f} nats")
    school = draws.expectation(lambda z: z["mu"][:, None] + z["tau"][:, None] * z["z"])
    print("mean effect of each school:", *(f"{effect:.1f}" for effect in school))
    replicated = inference.posterior_predictive(num_samples=1000, seed=0)["y"]
    share = (replicated.max(axis=1) > max(effect)).mean()
    print(f"data from the model have a larger largest effect than the measured ones in {share:.0%} of cases")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
