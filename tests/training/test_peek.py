"""What the first batch of data is, the data that are left to train on, and whether they end."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.batches import dataset
from tfvae.training.batch import peek


def test_sparse_batches_of_datasets_and_generators_become_dense():
    flat = np.eye(3, 4)
    sparse = tf.sparse.from_dense(flat)
    labels = np.arange(3)
    sources = {
        "x": tf.data.Dataset.from_tensors(sparse),
        "x and y": tf.data.Dataset.from_tensors((sparse, labels)),
        "generator": ((matrix, labels) for matrix in [scipy.sparse.csr_matrix(flat)]),
        "generator of x alone": (frame for frame in [pd.DataFrame(flat)]),
    }
    for name, source in sources.items():
        batch, source = peek(source)
        for found in (batch, next(iter(source))):
            np.testing.assert_array_equal(found if name == "x" else found[0], flat, err_msg=name)


def test_a_dataset_without_end_is_taken_with_a_number_of_steps_alone(x, quiet_vae):
    vae, endless = quiet_vae(), dataset(x).repeat()
    vae.compile()
    vae.fit(endless, steps_per_epoch=2, validation_data=endless, validation_steps=1, verbose=0)
    assert vae.predict(endless, steps=1, verbose=0).shape == next(iter(endless)).shape
    assert np.isfinite(vae.evaluate(endless, steps=1, verbose=0)).all()
    for method, expected in ((vae.evaluate, "`steps`"), (vae.predict, "`steps`"), (vae.encode, "`take`")):
        with pytest.raises(ValueError, match=f"`x` must be a dataset that ends: leave out `repeat.*{expected}"):
            method(endless)
