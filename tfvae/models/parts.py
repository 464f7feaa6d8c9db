"""The parts of a model: how what a constructor is given is checked, and how parts and networks fit together."""

from collections.abc import Callable
from typing import Any

import keras

from tfvae.likelihoods import Likelihood
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior


def checked_part(name: str, given: Any, *kinds: type, default: Callable[[], Any] | None = None) -> Any:
    """What a constructor was given for one of a model's parts.

    Args:
        name: the argument's name.
        given: what was given.
        kinds: the classes that it may be of.
        default: makes what None stands for, where it stands for anything.

    Raises:
        ValueError: it is of none of these classes.
    """
    chosen = default() if given is None and default is not None else given
    if not isinstance(chosen, kinds):
        expected = " or ".join(f"{_article(kind.__name__)} {kind.__name__}" for kind in kinds)
        raise ValueError(f"`{name}` must be {expected}. Received: {chosen!r}")
    return chosen


def checked_network(name: str, given: Any) -> keras.layers.Layer:
    """What a constructor was given for one of a model's networks.

    Args:
        name: the argument's name.
        given: what was given.

    Raises:
        ValueError: it is no Keras layer or model.
    """
    if not isinstance(given, keras.layers.Layer):
        raise ValueError(f"`{name}` must be a Keras model. Received: {given!r}")
    return given


def refuse_path_gradients(model: keras.Model) -> None:
    """Raises ValueError where the objective of a model takes gradients through z alone, which the model has not."""
    if model.objective.path_gradient:
        raise ValueError(
            f"`objective` must take the gradient of the terms themselves: a {type(model).__name__} has no path "
            f"gradients. Received: objective={model.objective!r}"
        )


def check_densities(posterior: Posterior, prior: Prior | Posterior, objective: Objective, name: str = "prior") -> None:
    """Checks that a model will know the densities that it needs.

    Args:
        posterior: q(z|x).
        prior: p(z).
        objective: what is maximised.
        name: the argument that the prior is.

    Raises:
        ValueError: the prior has not the support of the posterior.
        NotImplementedError: a distribution knows its density at its own draws alone, and more is needed.
    """
    if prior.support not in (None, posterior.support):
        raise ValueError(
            f"`{name}` must have the support of {type(posterior).__name__}, {posterior.support}. "
            f"Received: {type(prior).__name__}, whose support is {prior.support}"
        )
    if isinstance(prior, Posterior) and not prior.has_log_prob:
        raise NotImplementedError(
            f"`{name}` must know log p(z) of any z. Received: "
            f"{type(prior).__name__}, which knows it at its own draws alone"
        )
    if objective.path_gradient and not posterior.has_log_prob:
        raise NotImplementedError(
            "`objective` must take no path gradients (sticking_the_landing, doubly_reparameterized) with "
            f"{type(posterior).__name__}, whose log q(z|x) is known at its own draws alone. Received: "
            f"objective={objective!r}"
        )


def refuse_prior_of_encoder(model: keras.Model) -> None:
    """Raises ValueError where a prior is made of what the encoder gives of x alone, which the model has not."""
    if type(model.prior).connect is not Prior.connect:
        raise ValueError(
            f"`prior` must not be made of q(z|x), which a {type(model).__name__} has not for x alone. Received: "
            f"{model.prior!r}"
        )


def set_latent_dim(name: str, part: Any, latent_dim: int) -> None:
    """Gives a part its latent dimension.

    Args:
        name: the argument's name.
        part: a posterior or a prior.
        latent_dim: L.

    Raises:
        ValueError: it has another one.
    """
    if part.latent_dim is None:
        part.latent_dim = latent_dim
    elif part.latent_dim != latent_dim:
        raise ValueError(
            f"`{name}` must have the model's latent_dim, {latent_dim}, or None and belong to no other "
            f"model. Received: a {name} with latent_dim={part.latent_dim}"
        )


def features_of(name: str, network: keras.Model, given: Any) -> keras.KerasTensor:
    """What a network gives of symbolic inputs.

    Args:
        name: the argument's name.
        network: the network.
        given: a `keras.KerasTensor`, or a list of such.

    Raises:
        ValueError: it is not one tensor of features [B, F].
    """
    features = network(given)
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2 or features.shape[1] is None:
        raise ValueError(
            f"`{name}` must give one tensor of features [B, F]; end it with keras.layers.Flatten() where the "
            f"features have more axes. Received: {_article(name)} {name} that gives "
            f"{describe(features)}"
        )
    return features


def likelihood_parameters_of(
    name: str, network: keras.Model, given: Any, likelihood: Likelihood, event_shape: tuple[int, ...]
) -> keras.KerasTensor:
    """What a decoder gives of symbolic inputs.

    Args:
        name: the argument's name.
        network: the decoder.
        given: a `keras.KerasTensor`, or a list of such.
        likelihood: the likelihood that takes it.
        event_shape: the shape of one example.

    Raises:
        ValueError: the likelihood needs another shape.
    """
    parameters = network(given)
    expected = likelihood.parameter_shape(event_shape)
    if not isinstance(parameters, keras.KerasTensor) or tuple(parameters.shape[1:]) != expected:
        raise ValueError(
            f"`{name}` must give one tensor of shape {[None, *expected]}: the parameters that "
            f"{type(likelihood).__name__} needs for x of shape {[None, *event_shape]}. Received: a {name} "
            f"that gives {describe(parameters)}"
        )
    return parameters


def build(part: keras.layers.Layer, shape: tuple[int | None, ...]) -> None:
    """Builds a part for inputs of a shape, where that is still to be done."""
    if not part.built:
        part.build(shape)


def input_shapes(network: keras.Model) -> list[tuple[int | None, ...]] | None:
    """The shapes of the inputs that a network declares, or None where it declares none, or names them."""
    shape = getattr(network, "input_shape", None)
    if isinstance(shape, tuple):
        return [shape]
    return shape if isinstance(shape, list) else None


def describe(outputs: Any) -> str:
    """Names what a network gives, for an error message."""
    if isinstance(outputs, keras.KerasTensor):
        return f"a tensor of shape {list(outputs.shape)}"
    if isinstance(outputs, list | tuple | dict):
        return f"a {type(outputs).__name__} of {len(outputs)} outputs"
    return repr(outputs)


def _article(name: str) -> str:
    return "an" if name[0] in "aeiouAEIOU" else "a"
