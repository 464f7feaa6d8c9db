"""Your own data and networks: any Keras model can be the encoder or the decoder."""

import keras
import numpy as np

import tfvae

keras.utils.set_random_seed(0)
latent_dim = 2

# Data: noisy points on a circle in ten dimensions, scaled to about unit variance.
rng = np.random.default_rng(0)
angle = rng.uniform(0, 2 * np.pi, size=(4096, 1))
circle = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
x = (circle @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(4096, 10))).astype("float32")

encoder = keras.Sequential([keras.Input((10,)), keras.layers.Dense(64, "silu"), keras.layers.Dense(64, "silu")])
decoder = keras.Sequential([keras.Input((latent_dim,)), keras.layers.Dense(64, "silu"), keras.layers.Dense(10)])

vae = tfvae.VAE(encoder, decoder, latent_dim, likelihood=tfvae.likelihoods.Normal(scale="learned"))
vae.compile(keras.optimizers.Adam(3e-3), jit_compile=True)
vae.fit(x[:3584], validation_data=x[3584:], batch_size=64, epochs=30, verbose=2)

shuffled = rng.permuted(x[3584:], axis=0)
print("standard deviation of the noise: 0.1 in the data, learned", round(float(vae.likelihood.scale), 3))
print("mean log p(x), held out:", vae.log_likelihood(x[3584:], 1000, seed=0).mean().round(2))
print("the same with each column shuffled on its own:", vae.log_likelihood(shuffled, 1000, seed=0).mean().round(2))
