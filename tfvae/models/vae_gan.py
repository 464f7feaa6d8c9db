"""The VAE-GAN: x is compared in the features of a network that learns to tell data from what the decoder makes."""

from typing import Any, ClassVar, NoReturn

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood
from tfvae.models import critics, ownership, parts, suitability
from tfvae.models.vae import VAE
from tfvae.models.variational_model import split
from tfvae.posteriors import Posterior
from tfvae.priors import Prior
from tfvae.training.batch import Batch
from tfvae.training.step import Minimizer

tfd = tfp.distributions

_OF_CRITIC = ("critic_loss", "critic_accuracy")


@keras.saving.register_keras_serializable("tfvae")
class VAEGAN(VAE):
    """A variational autoencoder whose decoder is trained against a critic, and by the critic's features.

    The critic, the paper's discriminator, gives features f(x) and the logit of the probability D(x) that x is of the
    data. x_r is the mean of p(x|z) at z ~ q(z|x), and x_p that at z ~ p(z). Three losses are minimised in each step:

    - by encoder, posterior and prior: KL(q(z|x) || p(z)) + error,  error = -log N(f(x); f(x_r), I)
    - by the decoder: gamma * error + log(1 - D(x_r)) + log(1 - D(x_p))
    - by the critic: -log D(x) - log(1 - D(x_r)) - log(1 - D(x_p))

    The first two are updated by the optimizer of `compile`, the critic by its own. The metrics are `loss`, which is the
    first of them; `kl`; `feature_log_likelihood`, the negative error; `critic_loss`, the third, which is 3 log 2 = 2.08
    nats where the critic knows nothing; `critic_accuracy`, the share of x, x_r and x_p that it tells right; and
    `reconstruction_log_likelihood`, which is that of x, and not what is maximised. `score` has the latter and the KL
    divergence, whose sum `detect` judges x by. Features are not x, so the model has no lower bound on log p(x).

    Args:
        encoder: see `tfvae.VAE`.
        decoder: see `tfvae.VAE`.
        critic: a Keras model from x [B, ...] to the list of features [B, ...] of any shape and a logit [B, 1].
        latent_dim: L, the dimension of z.
        posterior: see `tfvae.VAE`; it must have a density.
        prior: see `tfvae.VAE`.
        likelihood: p(x|z), whose mean is what the critic is shown; it has no trainable weights, and its mean has the
            shape of x. None means `Normal(scale=1.0)`.
        gamma: weight of the error for the decoder, >= 0.
        critic_optimizer: what updates the critic; not the optimizer of `compile`. None means
            `keras.optimizers.RMSprop(3e-4)`, as in the paper.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together, or an argument is out of its range.

    Reference: Larsen et al. 2016, Autoencoding beyond Pixels Using a Learned Similarity Metric, equations 5 to 9 and
    algorithm 1.
    """

    _PARTS = ("encoder", "decoder", "critic", "posterior", "prior", "likelihood", "critic_optimizer")
    _metric_names: ClassVar[tuple[str, ...]] = (*VAE._metric_names, "feature_log_likelihood", *_OF_CRITIC)
    # Not the objective, which it does not maximise.
    _shown = ("latent_dim", "posterior", "prior", "likelihood", "critic", "gamma", "critic_optimizer", "event_shape")
    _draws_z = False

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        critic: keras.Model,
        latent_dim: int,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        gamma: float = 1.0,
        critic_optimizer: keras.optimizers.Optimizer | None = None,
        **keras_kwargs: Any,
    ) -> None:
        for name in ("objective", "table", "series"):
            if name in keras_kwargs:
                raise ValueError(
                    f"`{name}` must be left out: a VAEGAN has losses of its own, and is of arrays. Received: "
                    f"{name}={checks.shown(keras_kwargs[name])}"
                )
        # Set before the parts, because the constructor of the base class may call `build`.
        self.critic = parts.checked_network("critic", critic)
        ownership.refuse_shared("critic", critic, self)
        self.critic_optimizer = keras.optimizers.RMSprop(3e-4) if critic_optimizer is None else critic_optimizer
        self.gamma = checks.number("gamma", gamma, 0)
        if isinstance(posterior, Posterior) and not posterior.has_density:
            raise ValueError(
                "`posterior` must have a density in a VAEGAN, whose encoder follows the KL divergence; tfvae.VAE takes "
                f"a point. Received: {checks.shown(posterior)}"
            )
        super().__init__(encoder, decoder, latent_dim, posterior, prior, likelihood, **keras_kwargs)

    @classmethod
    def of_table(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TypeError: the rows of a table have no picture for the critic."""
        raise TypeError("A VAEGAN is of arrays, not of the rows of a table: use tfvae.VAE.of_table")

    @property
    def undefined(self) -> dict[str, str]:
        """Which numbers the model does not have: see `VariationalModel.undefined`."""
        return {
            **super().undefined,
            "elbo": "what it maximises is of features of x, not of x. Judge it by reconstruction_log_likelihood and "
            "by its samples, or train a tfvae.VAE.",
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        super().build(input_shape)
        event_shape, self.event_shape = self.event_shape, None
        likelihood = self.likelihood
        if (
            likelihood.allows_missing
            or likelihood.trainable_variables
            or likelihood.mean_shape(event_shape) != event_shape
        ):
            raise ValueError(
                "`likelihood` must have a mean of the shape of x, and neither trainable weights nor missing values, in "
                "a VAEGAN, which shows the mean to the critic and maximises no log p(x|z): such as Normal() or "
                f"Bernoulli(). Received: {checks.shown(likelihood)}"
            )
        given = self.critic(keras.KerasTensor((None, *event_shape)))
        parts.freeze_within(self.critic)
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise ValueError(
                "`critic` must give a list of features [B, ...] and one logit [B, 1] for each x: "
                "keras.Model(x, [features, logit]). Received: a critic that gives "
                f"{parts.describe(given)}"
            )
        critics.check_logits("critic", given[1], "x")
        suitability.check_logits("critic", self.critic)
        ownership.refuse_shared("critic", self.critic, self)
        ownership.claim(self.critic, self)
        # At once, so that every file has its state.
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.event_shape = event_shape

    def minimizers(self) -> list[Minimizer]:
        """The variables of encoder, posterior and prior, those of the decoder, and those of the critic."""
        rest, of_critic = split(self.trainable_variables, self.critic.trainable_variables)
        of_encoder, of_decoder = split(rest, self.decoder.trainable_variables)
        first, second = Minimizer(of_encoder, self.optimizer), Minimizer(of_decoder, self.optimizer)
        return [first, second, Minimizer(of_critic, self.critic_optimizer)]

    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the losses of a batch: see `Trainer.batch_losses`."""
        x = batch.x if batch.target is None else batch.target
        posterior, prior = self._posterior_of(batch.x, training), self.prior.distribution()
        drawn = elbo.draw(posterior, 1, seed=batch.seed)
        rows = tf.shape(drawn.z)[1]
        of_prior = prior.sample(rows, seed=tf.random.experimental.stateless_fold_in(batch.seed, 1))
        parameters = self.decoder(tf.concat([drawn.z[0], of_prior], axis=0), training=training)
        terms = elbo.terms_at(
            drawn.z,
            drawn.log_posterior,
            posterior,
            prior,
            lambda _: self.likelihood.log_prob(x, parameters[tf.newaxis, :rows], training=training),
        )
        features, logits = self.critic(tf.concat([x, self.likelihood.mean(parameters)], axis=0), training=training)
        of_x, of_reconstruction, _ = tf.split(tf.reshape(tf.cast(features, tf.float32), [3 * rows, -1]), 3)
        error = -tf.reduce_sum(tfd.Normal(of_reconstruction, 1.0).log_prob(of_x), axis=-1)
        real, *made = tf.split(tf.cast(logits, tf.float32)[:, 0], 3)
        # Each is -log(1 - D).
        caught = tf.add_n([tf.nn.softplus(each) for each in made])
        critic_loss = tf.nn.softplus(-real) + caught
        weight = self.kl_weight if training and self._weighs_kl else 1.0
        losses = [weight * terms.kl + error, self.gamma * error - caught, critic_loss]
        right = tf.stack([real > 0, *(each < 0 for each in made)])
        return self._reduced(
            batch,
            losses,
            terms,
            {
                "feature_log_likelihood": -error,
                "critic_loss": critic_loss,
                "critic_accuracy": tf.reduce_mean(tf.cast(right, tf.float32), axis=0),
            },
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "gamma": self.gamma}
