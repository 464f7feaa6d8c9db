"""Another prior for a model that is built and perhaps trained."""

from typing import Any

import keras

from tfvae import checks, private_apis
from tfvae.models import parts
from tfvae.models.autoencoder import Autoencoder
from tfvae.priors import Prior


def check_replacement(model: Autoencoder, prior: Prior) -> dict[str, Any] | None:
    """Checks that `replace_prior` can give a model another prior.

    Args:
        model: a model with the part `prior`, built.
        prior: p(z), of the same latent dimension, built or not.

    Returns:
        The arguments with which the model is compiled again, with an optimizer that has no state; None if it is not
        compiled.

    Raises:
        ValueError: the prior does not fit the other parts, or the optimizer cannot be made again.
        NotImplementedError: see `parts.check_densities`.
    """
    parts.check_densities(model.inference_parts()[-1][1], prior, model.objective)
    if not model.compiled:
        return None
    kind = type(model.optimizer)
    # An optimizer of a class that is not registered is made again by this class.
    with model.distribute_strategy.scope(), keras.saving.custom_object_scope({kind.__name__: kind}):
        try:
            return keras.saving.deserialize_keras_object(model.get_compile_config())
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                "`model` must be compiled with an optimizer that Keras can make again from its `get_config`, or not "
                f"be compiled. Received: optimizer={checks.shown(model.optimizer)}, with which it says: {error}"
            ) from error


def replace_prior(model: Autoencoder, prior: Prior) -> None:
    """Gives a model another prior, in place of the one that it has.

    The model is then as if it had been made with this prior, and all weights but the prior's had been loaded: methods,
    files and exports use it. Thresholds of anomalies, which were of the scores under the other prior, are forgotten. A
    compiled model is compiled again, with an optimizer of the same arguments that has no state yet.

    Args:
        model: a model with the part `prior`, built.
        prior: p(z), of the same latent dimension, built.

    Raises:
        ValueError: see `check_replacement`; the model is then as it was.
        NotImplementedError: likewise.
    """
    compile_arguments = check_replacement(model, prior)
    private_apis.replace_layer(model, "prior", prior)
    model.decision = None
    # All of these hold graphs with the weights of the other prior.
    model._functions.clear()
    model.train_function = model.test_function = model.predict_function = None
    if compile_arguments is not None:
        with model.distribute_strategy.scope():
            model.compile(**compile_arguments)
