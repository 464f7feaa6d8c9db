"""A model of the public contract of exports that is exported in less than a tenth of a second."""

import numpy as np
import tensorflow as tf

from tfvae import export


class Weight:
    """A weight as Keras has them, with its tensor in `value`."""

    def __init__(self, value):
        self.value = tf.Variable(value)


class Scaled(export.Exportable):
    """y = weight * x [B, 2]; its score is the sum of y. Without data, an export is compared on ones."""

    built = True

    def __init__(self, weight=(2.0, 3.0)):
        self.weight = Weight(np.array(weight, np.float32))

    def predict(self, x, verbose=0):
        return np.asarray(x) * self.weight.value.numpy()

    def export_signatures(self, x=None):
        def serving_default(x):
            return {"y": self.weight.value * x}

        def score(x, epsilon):
            return {"elbo": tf.reduce_sum(self.weight.value * x + epsilon, axis=1)}

        of_x, of_epsilon = (tf.TensorSpec([None, 2], tf.float32, name) for name in ("x", "epsilon"))
        return {
            "serving_default": export.Signature(serving_default, (of_x,), request=[0.0, 0.0]),
            "score": export.Signature(score, (of_x, of_epsilon), terms={"elbo": 2}),
        }

    def export_weights(self):
        return [self.weight]

    def export_data(self, x, rows=None):
        return super().export_data(np.ones([1, 2], np.float32) if x is None else x, rows)

    def export_examples(self, x, calibrating=False):
        return {"serving_default": {"x": x}, "score": {"x": x, "epsilon": np.ones_like(x)}}

    def export_description(self):
        return {"scaled": 2}
