"""Nine Bayesian models of posteriordb (Magnusson et al., 2024), whose posterior moments are known from careful MCMC.

A model is its log joint density, the shapes of its latents, and the bijectors from the unconstrained space onto the
latents' supports. A reference posterior is a JSON file with `name`, `data` and `reference` = {parameter: {mean, sd}};
`MODELS` maps each `name` to the function that makes the model from `data`. Flat priors are improper: in a model that
has one, the evidence, and with it the ELBO, is defined only up to a constant.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions


class Model(NamedTuple):
    """A log joint density and its latents.

    Attributes:
        latents: the shape of each latent, and the bijector from the unconstrained space onto its support, or None if it
            is unconstrained.
        log_joint: maps S values of each latent, each [S, *shape], to log p(data, latents) [S] in nats.
        quantities: maps the latents as arrays, each [S, *shape], to the parameters of the reference, each [S].
    """

    latents: dict[str, tuple[tuple[int, ...], tfb.Bijector | None]]
    log_joint: Callable[[dict[str, tf.Tensor]], tf.Tensor]
    quantities: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

    @property
    def size(self) -> int:
        """L, the dimension of the unconstrained vector that holds all latents."""
        return sum(int(np.prod(shape)) for _, _, shape in self._parts())

    def constrain(self, vector: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The latents, each [S, *shape], at unconstrained points [S, L], and log |Jacobian| of the map [S]."""
        values, log_jacobian, start = {}, tf.zeros_like(vector[:, 0]), 0
        for name, bijector, shape in self._parts():
            stop = start + int(np.prod(shape))
            part = tf.reshape(vector[:, start:stop], [-1, *shape])
            values[name] = bijector.forward(part)
            log_jacobian += bijector.forward_log_det_jacobian(part, event_ndims=len(shape))
            start = stop
        return values, log_jacobian

    def unconstrained_log_density(self, vector: tf.Tensor) -> tf.Tensor:
        """Log p(data, latents) + log |Jacobian| in nats [S], a density of the unconstrained points [S, L]."""
        values, log_jacobian = self.constrain(vector)
        return self.log_joint(values) + log_jacobian

    def quantities_at(self, vector: tf.Tensor) -> dict[str, np.ndarray]:
        """The parameters of the reference, each [S], at unconstrained points [S, L]."""
        return self.quantities({name: value.numpy() for name, value in self.constrain(vector)[0].items()})

    def _parts(self) -> list[tuple[str, tfb.Bijector, tuple[int, ...]]]:
        """The name, bijector and unconstrained shape of each latent, in their order in the unconstrained vector."""
        bijectors = {name: bijector or tfb.Identity() for name, (_, bijector) in self.latents.items()}
        return [(n, b, tuple(b.inverse_event_shape(self.latents[n][0]))) for n, b in bijectors.items()]


def kidscore_interaction(data: dict) -> Model:
    """Regression of children's test scores on their mothers' schooling, IQ and the interaction of both."""
    school, iq = np.array(data["mom_hs"]), np.array(data["mom_iq"])
    x = np.stack([np.ones_like(iq), school, iq, school * iq], axis=1)
    return _regression(data["kid_score"], x, lambda beta, sigma: tfd.HalfCauchy(0.0, 2.5).log_prob(sigma))


def earn_height(data: dict) -> Model:
    """Regression of earnings on height. The unknowns differ in scale by a factor of 100 and are strongly correlated."""
    height = np.array(data["height"])
    return _regression(data["earn"], np.stack([np.ones_like(height), height], axis=1))


def logmesquite(data: dict) -> Model:
    """Regression of the log weight of mesquite bushes on the logs of their measurements."""
    measures = ("diam1", "diam2", "canopy_height", "total_height", "density")
    logs = [np.log(data[name]) for name in measures]
    return _regression(np.log(data["weight"]), np.stack([np.ones_like(logs[0]), *logs, data["group"]], axis=1))


def nes(data: dict) -> Model:
    """Regression of voters' party identification on ideology, race, age group, education, gender and income."""
    age = np.array(data["age_discrete"])
    groups = [age == group for group in (2, 3, 4)]
    rest = [data[name] for name in ("educ1", "gender", "income")]
    x = np.stack([np.ones(len(age)), data["real_ideo"], data["race_adj"], *groups, *rest], axis=1)
    return _regression(data["partyid7"], x)


def blr(data: dict) -> Model:
    """Bayesian linear regression with proper priors and little noise."""

    def log_prior(beta: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
        return _sum(tfd.Normal(0.0, 10.0).log_prob(beta)) + tfd.HalfNormal(10.0).log_prob(sigma)

    return _regression(data["y"], data["X"], log_prior)


def ark(data: dict) -> Model:
    """An autoregressive time series of order K."""
    order, y = data["K"], np.array(data["y"])
    lags = np.stack([y[order - lag : len(y) - lag] for lag in range(1, order + 1)], axis=1)
    x = np.concatenate([np.ones_like(lags[:, :1]), lags], axis=1)

    def log_prior(beta: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
        return _sum(tfd.Normal(0.0, 10.0).log_prob(beta)) + tfd.HalfCauchy(0.0, 2.5).log_prob(sigma)

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        beta = latents["beta"]
        return {"alpha": beta[:, 0], **_entries("beta", beta[:, 1:]), "sigma": latents["sigma"]}

    return _regression(y[order:], x, log_prior)._replace(quantities=quantities)


def eight_schools_noncentered(data: dict) -> Model:
    """The effects of coaching in eight schools, in the non-centred form theta = mu + tau z."""
    y, error = _float(data["y"]), _float(data["sigma"])

    def log_joint(latents: dict[str, tf.Tensor]) -> tf.Tensor:
        mu, tau, z = latents["mu"], latents["tau"], latents["z"]
        theta = mu[:, None] + tau[:, None] * z
        log_prior = tfd.Normal(0.0, 5.0).log_prob(mu) + tfd.HalfCauchy(0.0, 5.0).log_prob(tau)
        return log_prior + _sum(tfd.Normal(0.0, 1.0).log_prob(z) + tfd.Normal(theta, error).log_prob(y))

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mu, tau, z = latents["mu"], latents["tau"], latents["z"]
        return {**_entries("theta", mu[:, None] + tau[:, None] * z), "mu": mu, "tau": tau}

    return Model({"mu": ((), None), "tau": ((), tfb.Exp()), "z": ((len(y),), None)}, log_joint, quantities)


def garch11(data: dict) -> Model:
    """A time series whose variance depends on the value and the variance one step before: GARCH(1, 1)."""
    y, first_variance = _float(data["y"]), float(data["sigma1"]) ** 2

    def compose(first: tuple, second: tuple) -> tuple:
        """Composes two maps v -> a v + b, each given as a pair (a, b); the first is applied first."""
        return first[0] * second[0], first[1] * second[0] + second[1]

    def log_joint(latents: dict[str, tf.Tensor]) -> tf.Tensor:
        mu, alpha0 = latents["mu"][:, None], latents["alpha0"][:, None]
        alpha1, beta1, _ = tf.split(latents["weights"], 3, axis=1)
        # v[1] is given and v[t] = beta1 v[t - 1] + added[t].
        added = alpha0 + alpha1 * (y[:-1] - mu) ** 2
        added = tf.concat([tf.fill(tf.shape(mu), first_variance), added], axis=1)
        _, variance = tfp.math.scan_associative(compose, (beta1 * tf.ones_like(added), added), axis=1)
        return _sum(tfd.Normal(mu, tf.sqrt(variance)).log_prob(y))

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights = latents["weights"]
        return {"mu": latents["mu"], "alpha0": latents["alpha0"], "alpha1": weights[:, 0], "beta1": weights[:, 1]}

    # alpha1 and beta1 are positive and their sum is below 1: two entries of a point of the simplex.
    simplex = ((3,), tfb.IteratedSigmoidCentered())
    return Model({"mu": ((), None), "alpha0": ((), tfb.Exp()), "weights": simplex}, log_joint, quantities)


def low_dim_gauss_mix(data: dict) -> Model:
    """A mixture of two normal distributions, the lower one with weight theta."""
    y = _float(data["y"])

    def log_joint(latents: dict[str, tf.Tensor]) -> tf.Tensor:
        mu, sigma, theta = latents["mu"], latents["sigma"], latents["theta"]
        # mu is ordered, and the ordered values of two independent draws have twice the density.
        log_prior = _sum(tfd.Normal(0.0, 2.0).log_prob(mu) + tfd.HalfNormal(2.0).log_prob(sigma)) + np.log(2.0)
        log_prior += tfd.Beta(5.0, 5.0).log_prob(theta)
        lower = tfd.Normal(mu[:, :1], sigma[:, :1]).log_prob(y) + tf.math.log(theta)[:, None]
        upper = tfd.Normal(mu[:, 1:], sigma[:, 1:]).log_prob(y) + tf.math.log1p(-theta)[:, None]
        return log_prior + _sum(tfp.math.log_add_exp(lower, upper))

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**_entries("mu", latents["mu"]), **_entries("sigma", latents["sigma"]), "theta": latents["theta"]}

    latents = {"mu": ((2,), tfb.Ascending()), "sigma": ((2,), tfb.Exp()), "theta": ((), tfb.Sigmoid())}
    return Model(latents, log_joint, quantities)


MODELS: dict[str, Callable[[dict], Model]] = {
    "arK-arK": ark,
    "earnings-earn_height": earn_height,
    "eight_schools-eight_schools_noncentered": eight_schools_noncentered,
    "garch-garch11": garch11,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "low_dim_gauss_mix-low_dim_gauss_mix": low_dim_gauss_mix,
    "mesquite-logmesquite": logmesquite,
    "nes1972-nes": nes,
    "sblri-blr": blr,
}


def read_posteriors(folder: Path) -> dict[str, tuple[Model, dict[str, dict[str, float]]]]:
    """Reads every JSON file in a folder, and returns the model and the reference moments by name."""
    posteriors = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {each["name"]: (MODELS[each["name"]](each["data"]), each["reference"]) for each in posteriors}


def compare(draws: dict[str, np.ndarray], reference: dict[str, dict[str, float]]) -> tuple[float, float, float]:
    """Compares the moments of draws [S] of each parameter with the reference.

    Returns:
        The largest |error of a mean|, in standard deviations of the reference, and the smallest and largest ratio of a
        standard deviation to the reference's.
    """
    if set(draws) != set(reference):
        raise ValueError(f"`draws` must hold the parameters {sorted(reference)}. Received: {sorted(draws)}")
    errors = [abs(draws[name].mean(dtype=float) - true["mean"]) / true["sd"] for name, true in reference.items()]
    ratios = [draws[name].std(dtype=float) / true["sd"] for name, true in reference.items()]
    return float(np.max(errors)), float(np.min(ratios)), float(np.max(ratios))


def _regression(y: list, x: list, log_prior: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None) -> Model:
    """The model y [N] ~ Normal(x beta, sigma), x [N, D]; the priors are flat unless log_prior(beta, sigma) is given."""
    y, x = _float(y), _float(x)

    def log_joint(latents: dict[str, tf.Tensor]) -> tf.Tensor:
        beta, sigma = latents["beta"], latents["sigma"]
        log_likelihood = _sum(tfd.Normal(beta @ tf.transpose(x), sigma[:, None]).log_prob(y))
        return log_likelihood if log_prior is None else log_likelihood + log_prior(beta, sigma)

    def quantities(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**_entries("beta", latents["beta"]), "sigma": latents["sigma"]}

    return Model({"beta": ((x.shape[1],), None), "sigma": ((), tfb.Exp())}, log_joint, quantities)


def _entries(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of values [S, D] as name[1] to name[D], each [S]."""
    return {f"{name}[{index}]": column for index, column in enumerate(values.T, start=1)}


def _float(values: list) -> np.ndarray:
    return np.asarray(values, "float32")


def _sum(terms: tf.Tensor) -> tf.Tensor:
    """The sum of [S, N] over N."""
    return tf.reduce_sum(terms, axis=-1)
