"""Texts: a vocabulary, an autoregressive decoder, generation, interpolation, and unusual texts with their reasons."""

import keras
import numpy as np

import tfvae
from tfvae import networks
from tfvae.data import Vocabulary

keras.utils.set_random_seed(0)
latent_dim = 8

# Data: sentences in which who acts, what happens and when go together. Your own may be lines of a file:
# Path("lines.txt").read_text().splitlines()
rng = np.random.default_rng(0)
scenes = (
    (("the cat", "a dog", "the bird"), ("sleeps", "eats", "plays"), ("in the garden", "on the sofa")),
    (("the train", "a bus", "the ship"), ("leaves", "arrives", "waits"), ("at nine", "at noon", "in the rain")),
)
texts = [" ".join(map(str, map(rng.choice, scenes[rng.integers(2)]))) for _ in range(3000)]
vocabulary = Vocabulary.learn(texts)

encoder = networks.recurrent_encoder((1,), units=(64,), hidden=(64,), num_classes=vocabulary.num_classes)
decoder = networks.recurrent_decoder(
    latent_dim,
    None,
    (vocabulary.num_classes,),
    units=(64,),
    hidden=(),
    step_shape=(1,),
    num_classes=vocabulary.num_classes,
)
vae = tfvae.AutoregressiveVAE(encoder, decoder, latent_dim, vocabulary=vocabulary, word_dropout=0.3)
vae.compile(keras.optimizers.Adam(5e-3))
warm_up = tfvae.callbacks.KLWarmUp(steps=150)
vae.fit(texts[:2560], validation_data=texts[2560:], batch_size=128, epochs=15, verbose=2, callbacks=[warm_up])

print("samples:", *vae.generate(5, seed=0), sep="\n  ")
first, last = vae.encode(["the cat sleeps on the sofa", "a bus leaves at noon"])["loc"]
print("from one sentence to another:", *vae.decode(np.linspace(first, last, 6)), sep="\n  ")

# The most surprising step of an unusual sentence.
for text in ("the bird plays in the garden", "the bird arrives in the garden"):
    score = vae.score([text])
    nats = -score["step_log_likelihood"][0]
    at = int(nats.argmax())
    print(f"{text}: ELBO {score['elbo'][0]:.1f} nats, most surprising after '{text[:at]}' ({nats[at]:.1f} nats)")
