"""Graphs that are made anew again and again: TensorFlow has nothing to warn of."""

import pytest
import tensorflow as tf

from tfvae.graphs import graph


@pytest.mark.parametrize("make", [graph, tf.function])
def test_graphs_of_one_line_are_not_counted_together(make, caplog):
    for _ in range(6):
        assert make(lambda x: x + 1.0)(tf.constant(1.0)) == 2.0
    assert ("retracing" in caplog.text) is (make is tf.function)


def test_the_arguments_of_a_graph_are_those_of_tf_function():
    traced = []

    def double(x):
        traced.append(x.shape)
        return 2.0 * x

    doubled = graph(double, input_signature=[tf.TensorSpec([None], tf.float32)])
    assert doubled(tf.ones([3])).shape == [3]
    assert doubled(tf.ones([4])).shape == [4]
    assert [shape.as_list() for shape in traced] == [[None]]
