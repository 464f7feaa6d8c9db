"""Sparse batches, which become dense before a model sees them."""

import numpy as np
import scipy.sparse
import tensorflow as tf

from tfvae.training.batch import peek


def test_sparse_batches_of_datasets_and_generators_become_dense(x):
    flat = np.asarray(x).reshape(len(x), -1)
    sparse = tf.sparse.from_dense(flat)
    labels = np.arange(len(x))
    sources = {
        "x": tf.data.Dataset.from_tensors(sparse),
        "x and y": tf.data.Dataset.from_tensors((sparse, labels)),
        "generator": ((matrix, labels) for matrix in [scipy.sparse.csr_matrix(flat)]),
    }
    for name, source in sources.items():
        batch, source = peek(source)
        for found in (batch, next(iter(source))):
            np.testing.assert_array_equal(found if name == "x" else found[0], flat, err_msg=name)
