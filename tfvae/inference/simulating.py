"""Simulated pairs of latent variables and data, as arrays and as a stream to train on."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, graphs
from tfvae.data import epochs


class SimulatingModel(keras.Model):
    """The methods of `tfvae.AmortizedInference` that simulate."""

    def simulate(self, num_pairs: int, *, seed: int | None = None) -> dict[str, np.ndarray]:
        """Draws pairs from the prior and the simulator.

        Args:
            num_pairs: N.
            seed: the same seed gives the same pairs; None draws anew at each call.

        Returns:
            The latent variables and the data by name, each [N, ...], in the form that `fit` takes.

        Raises:
            ValueError: the model has no prior or no simulator.
        """
        num_pairs = checks.positive_integer("num_pairs", num_pairs)
        drawn = self._simulated(num_pairs, self._seed(seed))
        return {name: value.numpy() for name, value in drawn.items()}

    def _simulated(self, num_pairs: int, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        if self._simulations.draw is None:
            raise ValueError(
                "`prior` and `simulator` must be given to AmortizedInference to simulate; without them give `fit` "
                f"pairs, as a dictionary with the keys {', '.join(self._simulations.names)}. Received: no simulator"
            )
        return self._simulator(num_pairs)(seed)

    def _simulator(self, num_pairs: int) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """The function of a seed that simulates so many pairs, as a graph."""
        key = "simulate", num_pairs
        if key not in self._functions:
            draw = self._simulations.draw
            self._functions[key] = graphs.graph(lambda seed: draw(num_pairs, seed))
        return self._functions[key]

    def _online(self, batch_size: int, steps_per_epoch: int) -> tf.data.Dataset:
        """Batches of new pairs for one epoch, which depend on the model's seed, the epoch and the step alone."""
        # Checked by one batch outside of the pipeline, whose errors would be hard to read.
        first = self._simulated(batch_size, self._stream_seed(0))
        self.check_data({name: value.numpy() for name, value in first.items()})
        simulator = self._simulator(batch_size)

        def one_pass(seed: tf.Tensor) -> tf.data.Dataset:
            seeds_of_steps = tf.data.Dataset.range(steps_per_epoch).map(
                lambda step: tf.random.experimental.stateless_fold_in(seed, tf.cast(step, tf.int32))
            )
            return epochs.read_ahead(seeds_of_steps, tf.autograph.experimental.do_not_convert(simulator))

        passes = epochs.ordered(one_pass, seed=self._progress.get_seed)
        return passes.apply(tf.data.experimental.assert_cardinality(steps_per_epoch))

    def _stream_seed(self, stream: int) -> tf.Tensor:
        """The seed of one use of simulations, so that uses do not share draws."""
        seed = tf.constant([self.noise_seed % 2**31, 0], tf.int32)
        return tf.random.experimental.stateless_fold_in(seed, stream)
