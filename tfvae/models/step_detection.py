"""Anomaly detection by models with latent variables at each step: of each step, by what is typical of steps."""

import tensorflow as tf

from tfvae import elbo
from tfvae.detection.decision import Decision
from tfvae.models import over_time
from tfvae.models.state_space import State, StateSpace
from tfvae.numerics import is_number

_Terms = tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]


class StepDetection(StateSpace):
    """How `calibrate` and `detect` of a `tfvae.SequentialVAE` take the terms of its bound."""

    def _terms_by_element(self, x: tf.Tensor) -> _Terms:
        scores, parameters = self._scored(x)
        nats = -self.likelihood.element_log_prob(x, tf.cast(parameters, tf.float32))
        return nats, scores["step_kl"], is_number(x) if self.likelihood.allows_missing else None

    def _judged(self, nats: tf.Tensor, kl: tf.Tensor, is_observed: tf.Tensor | None) -> _Terms:
        """The terms of the steps that are not padding."""
        if is_observed is None:
            return over_time.folded(nats), over_time.folded(kl), None
        real = over_time.until_last(is_observed)
        return tuple(tf.boolean_mask(each, real) for each in (nats, kl, is_observed))

    def _decided(
        self, decision: Decision, nats: tf.Tensor, kl: tf.Tensor, is_observed: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        steps = [None if each is None else over_time.folded(each) for each in (nats, kl, is_observed)]
        outputs = {name: over_time.unfolded(each, kl) for name, each in decision.outputs(*steps).items()}
        if is_observed is None:
            return outputs
        real = over_time.until_last(is_observed)
        of_element = tf.reshape(real, [*tf.unstack(tf.shape(kl)), *[1] * (len(nats.shape) - 2)])
        return {
            name: tf.where(of_element if name == "contributions" else real, each, 0.0) for name, each in outputs.items()
        }

    def terms_of_step(
        self, features: tf.Tensor, x: tf.Tensor, state: State, is_first: tf.Tensor
    ) -> tuple[_Terms, State]:
        """The terms by which `detect` judges a step, from the state before it alone, and the state after it.

        As in `detect` z_t is at the center of q(z_t|...), so that calls for one step after the other give what `detect`
        gives for whole sequences, if the encoder is causal.

        Args:
            features: those of the step, from the encoder [R, F].
            x: the data of the step [R, ...].
            state: the state before the step; at first `initial(R)`.
            is_first: whether it is the first step of a sequence, bool [R].

        Returns:
            -log p(x_t|z_t) of each element [R, ...], the KL divergence [R], and which elements are observed, bool
            [R, ...], or None; and the state after the step.
        """
        memory = self.read(state)
        encoded = self.q_of(features, state[0], memory)
        z, log_q = self.posterior.sample_and_log_prob_from(encoded)
        q, kls = self.posterior.distribution(encoded), []
        for p in (self.prior.distribution(), self.conditional.distribution(self.p_of(state[0], memory))):
            kl = elbo.closed_form_kl(q, p)
            kls.append(log_q - p.log_prob(z) if kl is None else kl)
        nats = -self.likelihood.element_log_prob(x, tf.cast(self.x_of(z, memory), tf.float32))
        is_observed = is_number(x) if self.likelihood.allows_missing else None
        return (nats, tf.where(is_first, *kls), is_observed), self.after(state, x, z)
