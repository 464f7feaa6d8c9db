"""A table of numbers, and a detector that is fitted to it once."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def table():
    """A table of 300 rows whose 3 columns have means of 50, scales of 1, 10 and 100, and depend on each other."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    noise = rng.normal(size=(300, 3))
    return 50 + np.stack([z, z, -z], axis=1) * [1, 10, 100] + noise * [0.3, 3, 30]


@pytest.fixture(scope="session")
def detector(table):
    from tfvae.sklearn import VAEOutlierDetector

    arguments = {"latent_dim": 1, "hidden": (8,), "max_epochs": 30}
    return VAEOutlierDetector(n_estimators=2, contamination=0.05, random_state=0, **arguments).fit(table)
