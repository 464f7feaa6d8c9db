"""The log-likelihood by annealed importance sampling, which does not need a good encoder."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.evaluation.batches import check_model, prior_of, seeded
from tfvae.evaluation.importance import LogLikelihood, check_weights
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.posteriors import Posterior
from tfvae.posteriors.posterior import known_density

tfb = tfp.bijectors
tfd = tfp.distributions
mcmc = tfp.mcmc

# The acceptance rate of HMC that the step size is adapted to; and by what fraction it changes at each step.
_ACCEPTANCE = 0.65
_ADAPTATION = 0.05


class _Restarted(mcmc.TransitionKernel):
    """An adaptive kernel that keeps nothing but its step size from one step to the next, where the density changes.

    TFP would also keep the density of the state, computed with the previous density, and accept proposals by it.

    Args:
        kernel: a `tfp.mcmc.SimpleStepSizeAdaptation`.
    """

    def __init__(self, kernel: mcmc.SimpleStepSizeAdaptation) -> None:
        self._kernel = kernel

    @property
    def is_calibrated(self) -> bool:
        return True

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        return self._kernel.bootstrap_results(init_state)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: Any, seed: tf.Tensor | None = None) -> Any:
        results = self._kernel.bootstrap_results(current_state)
        results = results._replace(
            step=previous_kernel_results.step, new_step_size=previous_kernel_results.new_step_size
        )
        return self._kernel.one_step(current_state, results, seed=seed)


def annealed_importance_sampling(
    model: VAE,
    x: Any,
    num_chains: int = 16,
    num_steps: int = 1000,
    *,
    start: Literal["prior", "posterior"] = "prior",
    num_leapfrog_steps: int = 10,
    step_size: float = 0.1,
    batch_size: int = 64,
    seed: int | None = None,
) -> LogLikelihood:
    """Estimates log p(x) by annealing z from a known distribution, p(z) or q(z|x), to the posterior p(z|x).

    p_t(z) proportional to r(z)^(1 - t/T) (p(x|z) p(z))^(t/T),  t = 0 ... T,  r = p(z) or q(z|x)
    log w = 1/T sum_t log p(x|z_t) p(z_t) / r(z_t),  z_t by Hamiltonian Monte Carlo, which leaves p_t invariant

    Starting from the prior, the estimate does not depend on the encoder at all; starting from q(z|x), it takes fewer
    steps. The chains of an example share a step size, which is adapted to an acceptance rate of 0.65 on the way; the
    adaptation causes an error that vanishes with many chains. Warns if k-hat is above 0.7 for more than a tenth of the
    examples.

    Args:
        model: the model.
        x: data as for the model's `fit`: arrays with N rows, or a dataset.
        num_chains: the number of chains for each example, at least 2; k-hat needs 25.
        num_steps: T, the number of steps of each chain: the more, the smaller the error.
        start: r, the prior p(z) or the posterior q(z|x).
        num_leapfrog_steps: the number of leapfrog steps in each step; each takes a gradient of the decoder.
        step_size: the step size of the first step, > 0.
        batch_size: how many examples are computed at a time; the decoder takes num_chains * batch_size rows.
        seed: the same seed gives the same chains; None draws anew at each call.

    Returns:
        The estimates [N], in nats per example.

    Raises:
        ValueError: an argument is invalid, or z has no unconstrained coordinates.

    Reference: Neal 2001, Annealed Importance Sampling; Wu et al. 2017, On the Quantitative Analysis of Decoder-Based
    Generative Models.
    """
    check_model(model, but=SemiSupervisedVAE)
    if model._prior_noise_dim:
        raise ValueError(
            "`model` must have a prior whose density is exact, which moves of z need. Received: "
            f"{checks.shown(model.prior)}"
        )
    check_weights("num_chains", num_chains)
    checks.positive_integer("num_steps", num_steps)
    checks.positive_integer("num_leapfrog_steps", num_leapfrog_steps)
    if start not in ("prior", "posterior"):
        raise ValueError(f'`start` must be "prior" or "posterior". Received: start={checks.shown(start)}')
    step_size = checks.positive_number("step_size", step_size)
    if not model.likelihood.is_of_x:
        model.check_defined("elbo", "`annealed_importance_sampling`")
    if start == "posterior" and not model.posterior.has_log_prob:
        raise ValueError(
            '`start` must be "prior" if log q(z|x) cannot be evaluated at any z. Received: start="posterior" with '
            f"{type(model.posterior).__name__}, {known_density(model.posterior)}"
        )

    @tf.function(autograph=False)
    def log_weights(batch: Any, batch_seed: tf.Tensor) -> tf.Tensor:
        prior = prior_of(model, batch)
        first = prior if start == "prior" else model._posterior_of(batch)
        # A prior that takes on the support of the posterior may be made of flows, for which TFP has no bijector.
        is_real = model.prior.support is None and model.posterior.support == "real"
        coordinates = tfb.Identity() if is_real else _coordinates(prior, model.latent_dim)
        seeds = tf.random.experimental.stateless_split(batch_seed, 2)
        size = tf.nest.flatten(batch)[0].shape[0]
        shape = num_chains if start == "posterior" or isinstance(model.prior, Posterior) else [num_chains, size]

        def log_first(u: tf.Tensor) -> tf.Tensor:
            return first.log_prob(coordinates.forward(u)) + coordinates.forward_log_det_jacobian(u, event_ndims=1)

        def log_joint(u: tf.Tensor) -> tf.Tensor:
            z = coordinates.forward(u)
            log_det = coordinates.forward_log_det_jacobian(u, event_ndims=1)
            return prior.log_prob(z) + model._log_likelihood(batch, z) + log_det

        return mcmc.sample_annealed_importance_chain(
            num_steps,
            log_first,
            log_joint,
            coordinates.inverse(first.sample(shape, seed=seeds[0])),
            functools.partial(_kernel, tf.fill([1, size, 1], step_size), num_leapfrog_steps, num_steps),
            seed=seeds[1],
        )[1]

    batches = seeded(model, x, batch_size, seed)
    result = LogLikelihood.joined([LogLikelihood.of_log_weights(log_weights(*batch).numpy()) for batch in batches])
    result.warn_where_far(num_chains, "take more steps")
    return result


def _kernel(
    step_size: tf.Tensor, num_leapfrog_steps: int, num_steps: int, log_prob: Callable[[tf.Tensor], tf.Tensor]
) -> mcmc.TransitionKernel:
    """Hamiltonian Monte Carlo for the states [C, B, L] of C chains, with a step size [1, B, 1]."""
    return _Restarted(
        mcmc.SimpleStepSizeAdaptation(
            mcmc.HamiltonianMonteCarlo(log_prob, step_size, num_leapfrog_steps),
            num_adaptation_steps=num_steps,
            target_accept_prob=_ACCEPTANCE,
            adaptation_rate=_ADAPTATION,
        )
    )


def _coordinates(prior: tfd.Distribution, latent_dim: int) -> tfb.Bijector:
    """The bijector from all of R^L to the space of z.

    Raises:
        ValueError: there is no such bijector.
    """
    part = prior
    while isinstance(part, tfd.MixtureSameFamily):
        part = part.components_distribution
    try:
        bijector = part.experimental_default_event_space_bijector()
    except (NotImplementedError, TypeError):
        # The constructor of TFP's bijector to the simplex, and so to the sphere, fails with NumPy 2.4.
        bijector = None
    if bijector is None or tuple(bijector.inverse_event_shape([latent_dim])) != (latent_dim,):
        raise ValueError(
            "`model` must have a prior over real numbers, in whose space Hamiltonian Monte Carlo can move. Received: "
            f"{prior}"
        )
    return bijector
