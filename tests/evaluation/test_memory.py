"""The importance-sampled log-likelihood uses bounded memory, whatever the number of samples."""

import pytest

# Peak memory of a fresh process, in bytes.
SCRIPT = r"""
    import re, sys
    import numpy as np, tfvae

    examples, event, num_samples, batch_size = (int(argument) for argument in sys.argv[1:])
    hidden = (200, 200)
    encoder = tfvae.networks.dense_encoder((event,), hidden)
    decoder = tfvae.networks.dense_decoder(50, (event,), hidden)
    vae = tfvae.VAE(encoder, decoder, 50, likelihood=tfvae.likelihoods.Bernoulli())
    x = np.random.default_rng(0).integers(0, 2, (examples, event)).astype("float32")
    values = vae.log_likelihood(x, num_samples, batch_size=batch_size)
    assert values.shape == (examples,) and np.isfinite(values).all()
    # Not getrusage, whose maximum a process inherits from the one that started it.
    print(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]))
"""

LIMIT = 4 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("examples", "event", "num_samples", "batch_size"),
    [(512, 2, 5000, 512), (256, 784, 500, 128)],
    ids=["few columns, many samples", "images"],
)
def test_memory_stays_under_4_gb(examples, event, num_samples, batch_size, run_python):
    # TensorFlow alone takes about 0.6 GB; memory that grew with the number of samples would exceed 2 GB here.
    assert int(run_python(SCRIPT, examples, event, num_samples, batch_size)) < LIMIT / 2


@pytest.mark.slow
def test_ten_thousand_images_with_5000_samples_fit_in_4_gb(run_python):
    assert int(run_python(SCRIPT, 10_000, 784, 5000, 128)) < LIMIT
