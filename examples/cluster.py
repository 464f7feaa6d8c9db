"""Training on several machines: the same command runs on each, and TF_CONFIG says which machine it is.

    export TF_CONFIG='{"cluster": {"worker": ["host-0:12345", "host-1:12345"]}, "task": {"type": "worker", "index": 0}}'
    python examples/cluster.py "shards/*.tfrecord" out

Each worker reads its own shards. When a worker dies, the others fail; started again, all of them resume from the newest
checkpoint. Without TF_CONFIG the same script trains on one machine.
"""

import argparse
from pathlib import Path

import keras

import tfvae

parser = argparse.ArgumentParser()
parser.add_argument("data", help="the shards: .tfrecord files of tfvae.shards.write_tfrecords, or .npz or .npy files")
parser.add_argument("output", type=Path, help="the folder of the first worker's checkpoints and exports")
parser.add_argument("--epochs", type=int, default=10)
arguments = parser.parse_args()

# Comes first, because it settles how TensorFlow starts.
strategy = tfvae.strategy("auto", timeout=600)
is_chief = tfvae.strategies.is_chief()
with strategy.scope():
    data = tfvae.data.load(arguments.data, batch_size=256)
    event_shape = tuple(data.train.element_spec.shape[1:])
    vae = tfvae.VAE(
        tfvae.networks.dense_encoder(event_shape),
        tfvae.networks.dense_decoder(8, event_shape),
        latent_dim=8,
        likelihood=tfvae.likelihoods.Normal(scale="learned"),
    )
    vae.compile(keras.optimizers.Adam(1e-3))
vae.fit(
    data.train,
    validation_data=data.validation,
    epochs=arguments.epochs,
    verbose=2 if is_chief else 0,
    callbacks=[tfvae.callbacks.Checkpoints(arguments.output / "checkpoints", save_freq=100)],
)

if is_chief:
    vae.save(arguments.output / "vae.keras")
    # A copy made outside of the strategy: its methods do not wait for the other workers.
    vae = keras.saving.load_model(arguments.output / "vae.keras")
    version = tfvae.export.saved_model(vae, arguments.output / "served", offset=data.offset, scale=data.scale)
    print("exported", version)
