"""Checks of the parts and networks that are passed to a model's constructor, alone and with one another."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfvae import checks
from tfvae.likelihoods import Categorical, Likelihood
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.posteriors.posterior import known_density
from tfvae.priors import Prior

# Why a model lacks a number, and what to do.
_POINT = (
    "q(z|x) is a point with {}, without a density. Judge the model by its reconstruction_log_likelihood, fit a prior "
    "to the encodings with tfvae.samplers.fit to generate, estimate log p(x) without q(z|x) by "
    "tfvae.evaluation.annealed_importance_sampling, or take a posterior with a density, such as DiagonalNormal()."
)
_NOT_OF_X = (
    "{} is a likelihood of features of x, not of x. Judge the model by its reconstruction_log_likelihood and its "
    "samples, or take a likelihood of x."
)


def checked_part(name: str, given: Any, *kinds: type, default: Callable[[], Any] | None = None) -> Any:
    """Returns a constructor's argument for one of the model's parts, or its default, after checking its class.

    Args:
        name: the argument's name.
        given: the argument's value.
        kinds: the classes of which it may be an instance.
        default: makes the part that None stands for; without a default, None is refused.

    Raises:
        ValueError: the part is not an instance of any of these classes.
    """
    chosen = default() if given is None and default is not None else given
    if not isinstance(chosen, kinds):
        expected = " or ".join(f"{_article(kind.__name__)} {kind.__name__}" for kind in kinds)
        raise ValueError(f"`{name}` must be {expected}. Received: {checks.shown(chosen)}")
    return chosen


def checked_network(name: str, given: Any) -> keras.layers.Layer:
    """Returns a constructor's argument for one of the model's networks, after checking its class.

    Args:
        name: the argument's name.
        given: the argument's value.

    Raises:
        ValueError: the value is neither a Keras layer nor a Keras model.
    """
    if not isinstance(given, keras.layers.Layer):
        raise ValueError(f"`{name}` must be a Keras model. Received: {checks.shown(given)}")
    return given


def checked_cell(name: str, given: Any) -> keras.layers.Layer | None:
    """Returns a constructor's argument for a recurrent cell, or None, after checking it.

    Args:
        name: the argument's name.
        given: the argument's value.

    Raises:
        ValueError: the value is not a Keras cell whose states are vectors.
    """
    # A recurrent layer, which runs over all steps, has the state_size of its cell.
    sizes = None if isinstance(given, keras.layers.RNN) else getattr(given, "state_size", None)
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
    if given is not None and not (
        isinstance(given, keras.layers.Layer) and all(isinstance(each, int) for each in sizes)
    ):
        raise ValueError(
            f"`{name}` must be a Keras cell, which has a state_size, such as keras.layers.GRUCell(32). Received: "
            f"{name}={checks.shown(given)}"
        )
    return given


@contextlib.contextmanager
def moved_weights(network: keras.Model) -> Iterator[None]:
    """Moves all trainable weights of a network a little within the context, each by a number that is not close to 0.

    Weights that start at 0, such as biases and the gates of residual branches, would hide what the network reads.
    """
    rng, variables = np.random.default_rng(0), network.trainable_variables
    values = [variable.numpy() for variable in variables]
    try:
        for variable, value in zip(variables, values, strict=True):
            moves = rng.uniform(0.05, 0.15, value.shape) * rng.choice([-1.0, 1.0], value.shape)
            variable.assign(value + moves)
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def refuse_objectives_of_z(model: keras.Model) -> None:
    """Raises ValueError for an objective of z, for a model that does not have z in one vector [L] for each example.

    It needs path gradients (through z alone), or the draws themselves.
    """
    if model.objective.path_gradient:
        raise ValueError(
            "`objective` must not need path gradients (sticking_the_landing, doubly_reparameterized), which a "
            f"{type(model).__name__} does not have. Received: objective={checks.shown(model.objective)}"
        )
    refuse_draws(model)


def refuse_draws(model: keras.Model) -> None:
    """Raises ValueError if the objective needs the draws of z, which the model does not have in one vector [L]."""
    if model.objective.needs_draws:
        raise ValueError(
            "`objective` must be one that does not need the draws of z or the divergence of each of its dimensions, "
            f"such as ELBO, IWAE or FreeBits(per_dimension=False), for a {type(model).__name__}. Received: "
            f"objective={checks.shown(model.objective)}"
        )


def check_densities(posterior: Posterior, prior: Prior | Posterior, objective: Objective, name: str = "prior") -> None:
    """Checks that the densities of q(z|x) and p(z) can be evaluated wherever the bound needs them.

    Args:
        posterior: q(z|x).
        prior: p(z).
        objective: what is maximised.
        name: the name of the argument through which the prior was passed.

    Raises:
        ValueError: the prior and the posterior have different supports; or the objective needs a density of q(z|x),
            which is a point, or independent dimensions of one of them.
        NotImplementedError: the density of one of them is known at its own draws alone, and is needed elsewhere.
    """
    if prior.support not in (None, posterior.support):
        raise ValueError(
            f"`{name}` must have the support of {type(posterior).__name__}, {posterior.support}. "
            f"Received: {type(prior).__name__}, whose support is {prior.support}"
        )
    if objective.needs_density and not posterior.has_density:
        raise ValueError(
            f"`objective` must not need log q(z|x) or the KL divergence with {type(posterior).__name__}, which is a "
            "point and has no density: use tfvae.objectives.MMD(), Adversarial() or RAE(), or a posterior with a "
            f"density such as DiagonalNormal(). Received: objective={checks.shown(objective)}"
        )
    for slot, argument, part in (("posterior", "posterior", posterior), ("prior", name, prior)):
        if slot in objective.needs_independent and not part.is_independent:
            raise ValueError(
                f"`objective` must not need independent dimensions of z with the {argument} {type(part).__name__}, "
                "whose dimensions depend on each other: use FreeBits(per_dimension=False), DIPVAE or MMD. Received: "
                f"objective={checks.shown(objective)}"
            )
    if isinstance(prior, Posterior) and not prior.has_log_prob:
        raise NotImplementedError(
            f"`{name}` must have a log p(z) that can be evaluated at any z. Received: "
            f"{type(prior).__name__}, {known_density(prior)}"
        )
    if objective.path_gradient and not posterior.has_log_prob:
        raise NotImplementedError(
            "`objective` must not need path gradients (sticking_the_landing, doubly_reparameterized) with "
            f"{type(posterior).__name__}, whose log q(z|x) is known at its own draws alone. Received: "
            f"objective={checks.shown(objective)}"
        )


def undefined(posterior: Posterior | None, likelihood: Likelihood | None) -> dict[str, str]:
    """Which of the numbers `elbo` and `kl` a model of such parts does not have, each with the reason.

    Args:
        posterior: q(z|x); None if it has a density.
        likelihood: p(x|z); None if it is a density of x.
    """
    found: dict[str, str] = {}
    if posterior is not None and not posterior.has_density:
        found |= dict.fromkeys(("elbo", "kl"), _POINT.format(type(posterior).__name__))
    # Last, because without a likelihood of x there is no log p(x) at all.
    if likelihood is not None and not likelihood.is_of_x:
        found["elbo"] = _NOT_OF_X.format(type(likelihood).__name__)
    return found


def check_bound(
    model: keras.Model, *, posterior: Posterior | None = None, likelihood: Likelihood | None = None
) -> None:
    """Raises ValueError for a part that would leave a model without a bound, which the model cannot be without.

    Args:
        model: the model.
        posterior: see `undefined`.
        likelihood: see `undefined`.
    """
    why = undefined(posterior, likelihood)
    if why:
        kind = type(model).__name__
        name, part = ("posterior", posterior) if "kl" in why else ("likelihood", likelihood)
        raise ValueError(
            f"`{name}` must leave {_article(kind)} {kind} its lower bound on log p(x), without which there are only "
            f"tfvae.VAE and its like: {why['elbo']} Received: {checks.shown(part)}"
        )


def refuse_prior_of_encoder(model: keras.Model) -> None:
    """Raises ValueError for a prior that only a VAE takes.

    It is built from q(z|x), such as VampPrior, of which other models have no function of x alone; or it has latent
    variables of its own, for which their exports have no noise.
    """
    if model.prior.noise_dim:
        raise ValueError(
            f"`prior` must not have latent variables of its own, which a {type(model).__name__} does not draw. "
            f"Received: {checks.shown(model.prior)}"
        )
    if type(model.prior).connect is not Prior.connect:
        raise ValueError(
            f"`prior` must not be built from q(z|x), which a {type(model).__name__} does not have as a function of x "
            f"alone. Received: {checks.shown(model.prior)}"
        )


def set_latent_dim(name: str, part: Any, latent_dim: int) -> None:
    """Sets the latent dimension of a part that has none yet.

    Args:
        name: the argument's name.
        part: a posterior or a prior.
        latent_dim: L.

    Raises:
        ValueError: the part already has a different latent dimension.
    """
    if part.latent_dim is None:
        part.latent_dim = latent_dim
    elif part.latent_dim != latent_dim:
        raise ValueError(
            f"`{name}` must have the model's latent_dim, {latent_dim}, or None, and must not be shared between models. "
            f"Received: a {name} with latent_dim={part.latent_dim}"
        )


def features_of(name: str, network: keras.Model, given: Any, has_steps: bool = False) -> keras.KerasTensor:
    """Applies a network to symbolic inputs, and checks that the output is one tensor of features [B, F].

    Args:
        name: the argument's name.
        network: the network.
        given: a `keras.KerasTensor` or a list of them.
        has_steps: whether the features must be of each step, [B, T, F].

    Returns:
        The symbolic features [B, F], or [B, T, F].

    Raises:
        ValueError: the output has another form.
    """
    features = network(given)
    freeze_within(network)
    if isinstance(features, list | tuple | dict) and len(features) > 1:
        raise ValueError(
            f"`{name}` must give one tensor of features [B, F], not the parameters of q(z|x) or a draw: the posterior "
            "makes layers for its parameters, such as loc and scale, and draws z itself. End it with the layer before "
            f"those of the mean and the variance. Received: {_article(name)} {name} that gives {describe(features)}"
        )
    is_tensor = isinstance(features, keras.KerasTensor)
    if has_steps and not (is_tensor and len(features.shape) == 3 and features.shape[2] is not None):
        raise ValueError(
            f"`{name}` must give one tensor of features [B, T, F], for each step of x [B, T, ...]. Received: "
            f"{_article(name)} {name} that gives {describe(features)}"
        )
    if not has_steps and not (is_tensor and len(features.shape) == 2 and features.shape[1] is not None):
        raise ValueError(
            f"`{name}` must give one tensor of features [B, F]; end it with keras.layers.Flatten() where the "
            f"features have more axes. Received: {_article(name)} {name} that gives "
            f"{describe(features)}"
        )
    return features


def likelihood_parameters_of(
    name: str, network: keras.Model, given: Any, likelihood: Likelihood, event_shape: tuple[int, ...]
) -> keras.KerasTensor:
    """Applies a decoder to symbolic inputs, and checks that the output has the shape that the likelihood needs.

    Args:
        name: the argument's name.
        network: the decoder.
        given: a `keras.KerasTensor` or a list of them.
        likelihood: the likelihood whose parameters the decoder computes.
        event_shape: the shape of one example.

    Returns:
        The symbolic parameters of the likelihood [B, ...].

    Raises:
        ValueError: the output has another shape.
    """
    parameters = network(given)
    freeze_within(network)
    expected = likelihood.parameter_shape(event_shape)
    if not isinstance(parameters, keras.KerasTensor) or tuple(parameters.shape[1:]) != expected:
        advice = ""
        if isinstance(likelihood, Categorical) and event_shape[-1] == likelihood.num_classes:
            advice = ", which holds codes: if x holds one-hot vectors, take x.argmax(axis=-1)"
            advice += "[:, None]" if len(event_shape) == 1 else ""
        raise ValueError(
            f"`{name}` must give one tensor of shape {[None, *expected]}: the parameters that "
            f"{type(likelihood).__name__} needs for x of shape {[None, *event_shape]}{advice}. Received: a {name} "
            f"that gives {describe(parameters)}"
        )
    return parameters


def build(part: keras.layers.Layer, shape: tuple[int | None, ...]) -> None:
    """Builds a part for inputs of a shape, if it is not built yet."""
    if not part.built:
        part.build(shape)
    freeze_within(part)


def freeze_within(layer: keras.layers.Layer) -> None:
    """Freezes all of a layer that is frozen: Keras does not freeze what the layer made only when it was built."""
    if not layer.trainable:
        # Setting a value that is set already would do nothing.
        layer.trainable = True
        layer.trainable = False


def input_shapes(network: keras.Model) -> list[tuple[int | None, ...]] | None:
    """The shapes of a network's inputs, or None if the network does not declare them, or takes its inputs by name."""
    shape = getattr(network, "input_shape", None)
    if isinstance(shape, tuple):
        return [shape]
    return shape if isinstance(shape, list) else None


def check_inputs(name: str, network: keras.Model, given: list[keras.KerasTensor], takes: str) -> None:
    """Raises ValueError if a network of one step declares other inputs than those that it will be given.

    Args:
        name: the argument's name.
        network: the network.
        given: what it will be given, symbolically.
        takes: what that is, in words, except for the memory.
    """
    declared = input_shapes(network)
    expected = [tuple(each.shape[1:]) for each in given]
    if declared is not None and [tuple(shape[1:]) for shape in declared] != expected:
        raise ValueError(
            f"`{name}` must take {takes}, and h_{{t-1}} after it where there is a memory: inputs of the shapes "
            f"{[[None, *shape] for shape in expected]}. Received: {_article(name)} {name} whose inputs have the shapes "
            f"{[list(shape) for shape in declared]}"
        )


def check_named_inputs(name: str, network: keras.layers.Layer, **given: keras.KerasTensor) -> None:
    """Raises ValueError if a network of a group of latent variables declares other inputs than it will be given.

    Args:
        name: the argument's name.
        network: the network.
        given: what it will be given, symbolically, by names for the message.
    """
    declared = input_shapes(network)
    if declared is None:
        return
    shapes = [tuple(each.shape) for each in given.values()]
    fit = len(declared) == len(shapes) and all(
        len(own) == len(shape) and all(size in (None, other) for size, other in zip(own, shape, strict=True))
        for own, shape in zip(declared, shapes, strict=True)
    )
    if not fit:
        expected = " and ".join(f"{each} {list(shape)}" for each, shape in zip(given, shapes, strict=True))
        raise ValueError(
            f"`{name}` must take {expected}, which follows from the networks before it; has each list the top group "
            "first, in the order of the arguments? Received: a network whose inputs have the shapes "
            f"{[list(shape) for shape in declared]}"
        )


def describe(outputs: Any) -> str:
    """Describes the output of a network for an error message."""
    if isinstance(outputs, keras.KerasTensor):
        return f"a tensor of shape {list(outputs.shape)}"
    if isinstance(outputs, list | tuple | dict):
        return f"a {type(outputs).__name__} of {len(outputs)} outputs"
    return repr(outputs)


def _article(name: str) -> str:
    return "an" if name[0] in "aeiouAEIOU" else "a"
