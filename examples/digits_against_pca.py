"""A VAE against PCA on handwritten digits, by the log-likelihood of held-out images.

PCA with k components is the best linear-Gaussian model with k latents (Tipping & Bishop 1999), so this shows what the
nonlinear networks gain. PCA's log-likelihood is exact, the VAE's importance-sampled. Takes about half a minute.
"""

import keras
import numpy as np
from sklearn.decomposition import PCA

import tfvae

EPOCHS = 120

keras.utils.set_random_seed(0)
train, validation, *_ = tfvae.data.load("digits", batch_size=32)
x_train, x_validation = (np.concatenate(list(d.as_numpy_iterator())) for d in (train, validation))

print("latent_dim    PCA    VAE   (held-out log p(x), nats per image)")
for latent_dim in (8, 16):
    pca = PCA(latent_dim).fit(x_train.reshape(len(x_train), -1))
    vae = tfvae.VAE(
        tfvae.networks.dense_encoder((8, 8, 1)),
        tfvae.networks.dense_decoder(latent_dim, (8, 8, 1)),
        latent_dim,
        likelihood=tfvae.likelihoods.Normal(scale="learned"),
    )
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * len(train))
    vae.compile(keras.optimizers.Adam(schedule), steps_per_execution=len(train))
    vae.fit(train, epochs=EPOCHS, verbose=0)
    exact = pca.score(x_validation.reshape(len(x_validation), -1))
    estimate = vae.log_likelihood(x_validation, num_samples=5000, seed=0).mean()
    print(f"{latent_dim:10d} {exact:6.2f} {estimate:6.2f}")
