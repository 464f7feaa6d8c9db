"""Another prior for a model that is built and perhaps trained."""

import keras

from tfvae import private_apis
from tfvae.models import parts
from tfvae.models.autoencoder import Autoencoder
from tfvae.priors import Prior


def replace_prior(model: Autoencoder, prior: Prior) -> None:
    """Gives a model another prior, in place of the one that it has.

    The model is then as if it had been made with this prior, and all weights but the prior's had been loaded: methods,
    files and exports use it. Thresholds of anomalies, which were of the scores under the other prior, are forgotten. A
    compiled model is compiled again, with an optimizer of the same arguments that has no state yet.

    Args:
        model: a model with the part `prior`, built.
        prior: p(z), of the same latent dimension, built.
    """
    parts.check_densities(model.inference_parts()[-1][1], prior, model.objective)
    private_apis.replace_layer(model, "prior", prior)
    model.decision = None
    # All of these hold graphs with the weights of the other prior.
    model._functions.clear()
    model.train_function = model.test_function = model.predict_function = None
    if model.compiled:
        with model.distribute_strategy.scope():
            model.compile(**keras.saving.deserialize_keras_object(model.get_compile_config()))
