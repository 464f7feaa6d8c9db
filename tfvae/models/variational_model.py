"""The base class of every model of tfvae: a `keras.Model` that is trained by maximising a lower bound on log p(x)."""

import abc
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sized
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from tfvae import checks, graphs, renamed
from tfvae.elbo import ElboTerms, Path, Sampling
from tfvae.models import critics, ownership, parts
from tfvae.objectives import ELBO, CriticObjective, Objective
from tfvae.training.batch import Batch
from tfvae.training.step import Minimizer
from tfvae.training.trainer import Trainer

_SHOWN = ("latent_dim", "latent_dims", "posterior", "posteriors", "prior", "likelihood", "objective", "event_shape")
# The arguments that every layer has.
_OF_EVERY_LAYER = ("name", "trainable", "dtype")
# As many elements of a list are shown of an argument.
_MOST_SHOWN = 8


class VariationalModel(Trainer):
    """A model trained by maximising a lower bound on log p(x).

    A subclass defines how the terms of the bound are estimated; this class turns them into losses and metrics. Each
    metric is a mean over examples:

    - `loss`: what is minimised: the negative objective, plus the regularisation losses of the layers;
    - `elbo`: the evidence lower bound, reconstruction_log_likelihood - kl, in nats, for every objective: higher is
      better;
    - `reconstruction_log_likelihood`: E_q[log p(x|z)], in nats;
    - `kl`: KL(q(z|x) || p(z)), in nats.

    A model that has no such number, as without a density of q(z|x), lacks the metric: see `undefined`.

    Sample weights multiply each example's objective; as in Keras, the loss is divided by the number of examples.

    Args:
        objective: what is maximised; None means `ELBO()`.
        kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the objective has a critic of z, and the model has no z [S, B, L] for it.
    """

    # Whether the terms have draws z [S, B, L], one for each example, with q(z|x) and p(z).
    _draws_z: ClassVar[bool] = False
    # A network that is trained beside the model, as that of an objective, and its optimizer.
    critic: Any = None
    critic_optimizer: Any = None
    # The metrics beside the loss.
    _metric_names: ClassVar[tuple[str, ...]] = ("elbo", "reconstruction_log_likelihood", "kl")
    # The attributes that the `repr` shows, where the model has them.
    _shown: ClassVar[tuple[str, ...]] = _SHOWN

    def __init__(self, objective: Objective | None = None, **kwargs: Any) -> None:
        # Without autocast, because log-densities need x in float32. Each network casts x to its own dtype policy.
        super().__init__(autocast=False, **kwargs)
        self.objective = parts.checked_part("objective", objective, Objective, default=ELBO)
        of_critic = "critic_optimizer"
        if isinstance(self.objective, CriticObjective):
            if not self._draws_z:
                raise ValueError(
                    f"`objective` must have no critic in a {type(self).__name__}, which does not have the draws z "
                    "[S, B, L] that it tells apart; tfvae.VAE, ConditionalVAE and AutoregressiveVAE have. Received: "
                    f"objective={checks.shown(self.objective)}"
                )
            of_critic = "optimizer"
            ownership.refuse_shared("objective", self.objective.critic, self, "its critic and its optimizer")
            self.critic, self.critic_optimizer = self.objective.critic, self.objective.optimizer
        if self.critic is not None:
            # As attributes, the critic and the state of its optimizer are saved with the model by Keras.
            self.critic_optimizer = critics.checked_optimizer(of_critic, self.critic_optimizer, self)
        names = (*self._metric_names, *self.objective.metric_names)
        self._trackers = [keras.metrics.Mean(name=name) for name in names]
        self._trackers += self._more_metrics()
        # Set through __dict__, because Keras would otherwise try to save these graphs with the model.
        self.__dict__["_functions"] = {}

    def __repr__(self) -> str:
        """The parts of the model, the shape of its data and the number of its trainable weights."""
        shown = [f"{name}={described(getattr(self, name))}" for name in self._shown if hasattr(self, name)]
        count = sum(math.prod(variable.shape) for variable in self.trainable_variables)
        weights = f"{count:,} trainable weights" if self.built else "not built"
        return f"{type(self).__name__}({', '.join(shown)}, {weights})"

    @abc.abstractmethod
    def elbo_terms(self, x: tf.Tensor, sampling: Sampling) -> ElboTerms:
        """Estimates the terms of the bound.

        Args:
            x: the data [B, ...], float32.
            sampling: how z is drawn, and whether the KL divergence may be computed in closed form.

        Returns:
            The terms, in nats per example.
        """

    @property
    def undefined(self) -> dict[str, str]:
        """Which of `elbo` and `kl` the model does not have, each with the reason; it has those that are not here."""
        return {}

    @property
    def has_bound(self) -> bool:
        """Whether the model has a lower bound on log p(x), and with it importance weights."""
        return "elbo" not in self.undefined

    def check_defined(self, number: Literal["elbo", "kl"], what: str) -> None:
        """Raises ValueError if the model does not have a number.

        Args:
            number: the number.
            what: what needs it, to begin the message with.
        """
        why = self.undefined.get(number)
        if why is not None:
            needed = "a lower bound on log p(x)" if number == "elbo" else "KL(q(z|x) || p(z))"
            raise ValueError(f"{what} needs {needed}, which this model does not have: {why} Received: {self!r}")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics, without those that are not defined."""
        undefined = {id(each) for each in self._trackers if each.name in self.undefined}
        return [metric for metric in super().metrics if id(metric) not in undefined]

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        """Further metrics of a model, each of which is updated with the entry of its name in `ElboTerms.metrics`."""
        return []

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of q(z|x) alone, for objectives that train q(z|x) on an objective of its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define which variables belong to q(z|x)")

    def minimizers(self) -> list[Minimizer]:
        """The variables for each of the losses, with the optimizer of `compile` or that of the critic.

        In general there is one loss, for all trainable variables. If the objective has a separate one for q(z|x)
        (`for_posterior`), the first loss is for the variables of p(x, z) and the second for those of q(z|x). If it has
        a critic, the last loss is for the critic's variables, and no other is.
        """
        if isinstance(self.objective, CriticObjective):
            of_model, of_critic = split(self.trainable_variables, self.critic.trainable_variables)
            return [Minimizer(of_model, self.optimizer), Minimizer(of_critic, self.critic_optimizer)]
        if self.objective.for_posterior is None:
            return [Minimizer(self.trainable_variables, self.optimizer)]
        return [Minimizer(each, self.optimizer) for each in split(self.trainable_variables, self.posterior_variables)]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Sets the optimizer and how steps run: see `Trainer`.

        Raises:
            ValueError: see `Trainer`; or the optimizer is that of the critic.
        """
        given = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs).arguments.get("optimizer")
        shared = self.critic_optimizer
        if given is not None and given in (shared, getattr(shared, "inner_optimizer", None)):
            raise ValueError(
                "`optimizer` must be another one than that of the critic, each with a state of its own. "
                f"Received: optimizer={described(given)} for both"
            )
        super().compile(*args, **kwargs)

    def batch_losses(self, batch: Batch, training: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Computes the losses of a batch: see `Trainer.batch_losses`."""
        objective = self.objective
        path = Path() if objective.path_gradient else None
        terms = self.elbo_terms(
            batch.x, Sampling(objective.num_samples, batch.seed, objective.analytic_kl, path, training, batch.target)
        ).weighted(batch.sample_weight)
        objectives = [objective, objective.for_posterior] if training and objective.for_posterior else [objective]
        tempered = objective.tempered(terms, self.kl_weight) if training and self._weighs_kl else terms
        if path is not None:
            # The path leads to the variables of q(z|x), which follow the last objective.
            path.weights = objectives[-1].path_weights(tempered)
        losses = [-each(tempered) - terms.auxiliary for each in objectives]
        more: dict[str, tf.Tensor] = {}
        if isinstance(objective, CriticObjective):
            loss, more = objective.of_critic(terms, training)
            losses.append(loss)
        return self._reduced(batch, losses, terms, more)

    def _reduced(
        self, batch: Batch, losses: list[tf.Tensor], terms: ElboTerms, more: dict[str, tf.Tensor]
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """The result of `batch_losses`, for losses [B] of each example, of which the first is the metric `loss`.

        Args:
            batch: the batch.
            losses: the losses, each [B], without weights and regularisation.
            terms: the terms of the bound, for the metrics.
            more: the values of further metrics, by name.
        """
        if batch.sample_weight is not None:
            losses = [loss * batch.sample_weight for loss in losses]
        regularization = tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses]) if self.losses else 0.0
        share = batch.size / batch.global_size
        values = {
            "loss": losses[0] + regularization,
            **({"elbo": terms.elbo} if self.has_bound else {}),
            "reconstruction_log_likelihood": tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0),
            **({} if terms.kl is None else {"kl": terms.kl}),
            **(terms.metrics or {}),
            **more,
        }
        return [tf.reduce_sum(loss) / batch.global_size + regularization * share for loss in losses], values

    def _scores(self, terms: ElboTerms) -> dict[str, tf.Tensor]:
        """The outputs of `score`, from the terms at a single z for each x."""
        # Not `terms.elbo`: the mean over one sample would be one more op of a device.
        reconstruction_log_likelihood = tf.squeeze(terms.reconstruction_log_likelihood, 0)
        return {
            **({"elbo": reconstruction_log_likelihood - terms.kl} if self.has_bound else {}),
            renamed.NEW: reconstruction_log_likelihood,
            **({} if terms.kl is None else {"kl": terms.kl}),
        }

    def _run(self, function: Callable[..., Any], *tensors: tf.Tensor, **constants: int) -> Any:
        """Calls one of the model's functions in the way that `compile` set: eagerly, as a graph, or by XLA."""
        function_of_tensors = functools.partial(function, **constants)
        if self.run_eagerly:
            return function_of_tensors(*tensors)
        jit_compile = bool(self.jit_compile)
        key = (function.__name__, jit_compile, *constants.items())
        if key not in self._functions:
            self._functions[key] = graphs.graph(function_of_tensors, reduce_retracing=True, jit_compile=jit_compile)
        return self._functions[key](*tensors)

    def _seed(self, seed: int | None) -> tf.Tensor:
        return self.next_seed() if seed is None else tf.constant([checks.seed_number(seed), 0], tf.int32)


def split(variables: list[Any], own: list[Any]) -> tuple[list[Any], list[Any]]:
    """Splits variables, in their order, into those that are not among `own` and those that are."""
    chosen = {id(variable) for variable in own}
    found: tuple[list[Any], list[Any]] = ([], [])
    for variable in variables:
        found[id(variable) in chosen].append(variable)
    return found


def described(part: Any) -> str:
    """A part as in code, with its arguments, those of parts within it too; long lists are cut.

    Args:
        part: a layer, a list of such, an optimizer, of which the learning rate is shown, or anything that has a `repr`.
    """
    if isinstance(part, list):
        return f"[{', '.join(map(described, part))}]"
    if isinstance(part, keras.optimizers.Optimizer):
        # It has a dozen more, which hardly anyone sets; and one that scales the loss has those of another.
        part = getattr(part, "inner_optimizer", part)
        return _as_call(type(part).__name__, {"learning_rate": part.get_config()["learning_rate"]})
    if not isinstance(part, keras.layers.Layer):
        return repr(part)
    return _as_call(type(part).__name__, part.get_config())


def _as_call(name: str, config: dict[str, Any]) -> str:
    if "layers" in config:
        # Of a network, whose layers would take pages.
        return f"{name}(...)"
    own = {key: value for key, value in config.items() if key not in _OF_EVERY_LAYER and value is not None}
    return f"{name}({', '.join(f'{key}={_as_argument(value)}' for key, value in own.items())})"


def _as_argument(value: Any) -> str:
    if isinstance(value, dict) and {"class_name", "config"} <= set(value):
        return _as_call(value["class_name"], value["config"])
    if isinstance(value, dict):
        return f"{{{_cut(value, [f'{key!r}: {_as_argument(each)}' for key, each in _first(value.items())])}}}"
    if isinstance(value, list | tuple):
        return f"[{_cut(value, [_as_argument(each) for each in _first(value)])}]"
    if isinstance(value, float):
        # To the digits of float32, in which Keras keeps what it varies.
        value = float(f"{value:.7g}")
    return checks.shown(value)


def _first(values: Iterable[Any]) -> list[Any]:
    return list(itertools.islice(values, _MOST_SHOWN))


def _cut(values: Sized, shown: list[str]) -> str:
    more = [f"... ({len(values)} in all)"] if len(values) > len(shown) else []
    return ", ".join([*shown, *more])
