"""One small model of each kind that can be exported, with relu, which hides NaN from what follows it in LiteRT."""

import keras
import numpy as np

import tfvae
from tfvae import likelihoods, networks

D, K, LATENT_DIM = 4, 3, 2
PICTURE = (4, 4, 1)


def _encoder(**arguments):
    return networks.dense_encoder((D,), hidden=(8,), activation="relu", **arguments)


def _decoder(outputs=D, **arguments):
    return networks.dense_decoder(LATENT_DIM, (outputs,), hidden=(8,), activation="relu", **arguments)


def _conditional():
    return tfvae.ConditionalVAE(_encoder(condition_dim=K), _decoder(condition_dim=K), LATENT_DIM, K)


def _semi_supervised():
    classifier = networks.dense_decoder(D, (K,), hidden=(8,), activation="relu", name="classifier")
    networks_of_y = (_encoder(condition_dim=K), _decoder(condition_dim=K))
    return tfvae.SemiSupervisedVAE(*networks_of_y, classifier, LATENT_DIM, K)


def _hierarchical():
    upper = networks.dense_encoder((LATENT_DIM,), hidden=(8,), activation="relu")
    features = networks.dense_decoder(LATENT_DIM, (8,), hidden=(), name="features")
    return tfvae.HierarchicalVAE([_encoder(), upper], [_decoder(), features], [LATENT_DIM, LATENT_DIM])


def _deep():
    made = networks.ladder(PICTURE, None, (4,), (2,), 1, activation="relu")
    return tfvae.DeepHierarchicalVAE(*made)


def _missing_columns():
    columns = likelihoods.Columns([(likelihoods.Normal(), D - 1), (likelihoods.Categorical(K), 1)])
    likelihood = likelihoods.Missing(columns)
    return tfvae.VAE(_encoder(), _decoder(D - 1 + K), LATENT_DIM, likelihood=likelihood)


KINDS = {
    "VAE": lambda: tfvae.VAE(_encoder(), _decoder(), LATENT_DIM),
    "ConditionalVAE": _conditional,
    "SemiSupervisedVAE": _semi_supervised,
    "HierarchicalVAE": _hierarchical,
    "DeepHierarchicalVAE": _deep,
    "Columns": _missing_columns,
}


def build(kind):
    """The model, calibrated, so that it has all signatures that a model of its kind can have."""
    keras.utils.set_random_seed(0)
    model = KINDS[kind]()
    model.calibrate(model.export_data(None), threshold=1.0)
    return model


def inputs_of(shapes, rows):
    """Right values for the inputs of a signature of these models, by name."""
    rng = np.random.default_rng(rows)
    arrays = {name: rng.standard_normal((rows, *shape[1:]), np.float32) for name, shape in shapes.items()}
    for name in arrays:
        if name == "label":
            arrays[name] = (np.arange(rows) % K).astype(np.float32)
        if name == "x" and arrays[name].ndim == 2:
            # The last column of "Columns" holds codes.
            arrays[name][:, -1] = np.arange(rows) % K
    return arrays
