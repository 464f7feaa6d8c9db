"""The private names of other libraries that tfvae uses: each of them exists, and still means what it did."""

import inspect
import json
import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.helpers.private_names import USES, module, small_model
from tfvae import private_apis

tfd = tfp.distributions


def check_is_there(library, owner, name, need):
    assert hasattr(owner, name), f"{library} has no `{name}` any more in {owner!r}; tfvae needs it in {need}"


@pytest.mark.parametrize(("library", "owner", "name", "need"), USES, ids=[use[2] for use in USES])
def test_the_name_is_there(library, owner, name, need):
    check_is_there(library, owner(), name, need)
    (function,) = re.findall(r"^`(\w+)`", need)
    assert hasattr(private_apis, function)


def test_a_name_that_is_gone_is_told_in_a_sentence():
    told = r"^Keras has no `_gone` any more in <.*>; tfvae needs it in `strategy_of`"
    with pytest.raises(AssertionError, match=told):
        check_is_there("Keras", keras.layers.Dense(1), "_gone", "`strategy_of`: XLA")
    with pytest.raises(AssertionError, match=r"^TensorFlow has no `context` any more in None; tfvae needs it"):
        check_is_there("TensorFlow", module("gone")(), "context", "`strategy_of`: XLA")


def test_keras_tells_evaluate_that_fit_has_called_it():
    # For `is_validation_of_fit`: an argument, so there is no object on which to look up its name.
    assert '"_use_cached_eval_dataset"' in inspect.getsource(keras.Model.evaluate), (
        "Keras has no argument `_use_cached_eval_dataset` of `evaluate` any more; tfvae needs it in "
        "`is_validation_of_fit`: validation data that are looked at once"
    )


def test_every_function_has_its_names_in_the_table():
    functions = {name for name, _ in inspect.getmembers(private_apis, inspect.isfunction)}
    in_table = {re.match(r"`(\w+)`", need)[1] for *_, need in USES}
    assert functions | {"HookedModel"} == in_table | {"is_validation_of_fit"}


# That they mean what they did


def test_layers_of_a_model_are_all_that_are_within_it():
    model = small_model()
    kinds = [type(layer) for layer in private_apis.layers_of(model)]
    assert kinds[0] is keras.Sequential
    assert keras.layers.Dense in kinds


def test_a_layer_that_replaces_another_takes_its_place():
    class Two(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = keras.layers.Dense(1), keras.layers.Dense(2), None

        def call(self, x):
            return self.second(self.first(x))

    outer = Two()
    outer(np.zeros((1, 3)))
    new = keras.layers.Dense(1)
    new.build((None, 3))
    private_apis.replace_layer(outer, "first", new)
    assert outer.first is new
    variables = [*new.variables, *outer.second.variables]
    assert [id(each) for each in outer.variables] == [id(each) for each in variables]
    last = keras.layers.Dense(1)
    last.build((None, 2))
    private_apis.replace_layer(outer, "third", last)
    variables += last.variables
    assert [id(each) for each in outer.variables] == [id(each) for each in variables]
    with pytest.raises(ValueError, match="cannot add new elements"):
        outer.fourth = keras.layers.Dense(1)


def test_the_maker_of_a_tensor_is_the_last_layer_and_what_it_was_applied_to():
    inner = keras.Input((2,))
    outer = keras.layers.Dense(1)
    layer, inputs = private_apis.made_by(outer(inner))
    assert layer is outer
    assert inputs[0] is inner


def test_the_calls_of_a_model_are_in_order_and_can_be_repeated():
    model = small_model()
    assert private_apis.functional(keras.layers.Dense(1)) is None
    functional = private_apis.functional(model)
    x = keras.ops.ones((3, 2))
    tensors = {id(functional.inputs[0]): x}
    for layer, arguments, outputs in private_apis.calls_of(functional):
        positional, named = arguments.fill_in(tensors)
        tensors[id(outputs[0])] = layer(*positional, **named)
    np.testing.assert_array_equal(tensors[id(functional.outputs[0])], model(x))


def test_strategy_is_the_one_that_a_model_was_made_in():
    assert private_apis.strategy_of(small_model()) is None
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        assert private_apis.strategy_of(small_model()) is strategy


def test_the_same_optimizer_with_another_update_shares_its_state_and_leaves_it_alone():
    variable, optimizer, seen = keras.Variable([1.0]), keras.optimizers.Adam(), []
    optimizer.build([variable])
    before = set(vars(optimizer))
    view = private_apis.with_update(optimizer, lambda own, *arguments: seen.append((own, arguments)))
    view.apply([tf.constant([1.0])], [variable])
    assert [own for own, _ in seen] == [view]
    assert int(optimizer.iterations) == 1
    assert float(variable[0]) == 1.0
    optimizer.apply([tf.constant([1.0])], [variable])
    assert float(variable[0]) < 1.0
    assert set(vars(optimizer)) == before


def test_a_worker_by_itself_is_the_first_of_one():
    assert private_apis.worker_of(tf.distribute.MultiWorkerMirroredStrategy()) == (0, 1)


IN_USE = """
    import json
    import tensorflow as tf
    import tfvae.data.shards
    from tfvae.cli import exports, noise, run_training

    noise.import_tensorflow()
    from tfvae import private_apis

    def state():
        threading = tf.config.threading
        return threading.get_inter_op_parallelism_threads(), threading.get_intra_op_parallelism_threads()

    before = state()
    answers = [private_apis.is_tensorflow_in_use() for _ in range(2)]
    same = state() == before
    # What TensorFlow refuses once it is in use.
    tf.config.threading.set_inter_op_parallelism_threads(3)
    kept = state()[0]
    tf.constant(1.0)
    answers.append(private_apis.is_tensorflow_in_use())
    print(json.dumps([answers, same, kept, state()[0]]))
"""


@pytest.mark.parametrize("is_quiet", [False, True])
def test_many_functions_made_from_one_warn_of_tracing_unless_told_not_to(is_quiet):
    def one():
        return tf.constant(0)

    records = []
    handler = logging.Handler()
    handler.emit = records.append
    tf.get_logger().addHandler(handler)
    for _ in range(6):
        function = tf.function(one, autograph=False)
        (private_apis.without_tracing_warning(function) if is_quiet else function)()
    tf.get_logger().removeHandler(handler)
    assert bool(records) is not is_quiet


def test_to_ask_whether_tensorflow_is_in_use_changes_nothing(run_python):
    assert json.loads(run_python(IN_USE).splitlines()[-1]) == [[False, False, True], True, 3, 3]


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_graph_knows_whether_xla_compiles_it(jit_compile):
    answers = []

    @tf.function(jit_compile=jit_compile, autograph=False)
    def function(x):
        answers.append(private_apis.is_compiled_by_xla(tf.compat.v1.get_default_graph()))
        return x + 1.0

    function(tf.constant(1.0))
    assert set(answers) == {jit_compile}


def test_weights_in_memory_are_those_that_keras_writes(tmp_path):
    model = small_model()
    (tmp_path / "a.weights.h5").write_bytes(private_apis.weights_file(model))
    expected = model.get_weights()
    model.set_weights([np.zeros_like(value) for value in expected])
    model.load_weights(tmp_path / "a.weights.h5")
    for value, given in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, given)


def test_variables_of_a_list_have_names():
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), lambda a: tfd.Normal(a, 1.0)])
    assert list(private_apis.names_of(joint)) == list(joint.resolve_graph()[i][0] for i in range(2))


@pytest.mark.parametrize("make", [tfd.JointDistributionNamed, tfd.JointDistributionNamedAutoBatched])
def test_the_bijector_of_a_joint_distribution_is_that_of_tfp(make):
    joint = make({"a": tfd.HalfNormal(1.0), "b": lambda a: tfd.Uniform(-a, 0.0), "y": tfd.Normal(0.0, 1.0)})
    for model in (joint, joint.experimental_pin(y=0.0)):
        made = private_apis.joint_bijector(model, lambda each: each.experimental_default_event_space_bijector())
        expected = model.experimental_default_event_space_bijector()
        assert type(made) is type(expected)
        z = tf.nest.map_structure(lambda shape: tf.constant([0.5, -1.0]), model.event_shape)
        tf.nest.map_structure(np.testing.assert_array_equal, made.forward(z), expected.forward(z))


def test_an_op_that_tflite_has_not_is_a_converter_error():
    @tf.function(input_signature=[tf.TensorSpec([2])])
    def function(x):
        return tf.math.lbeta(tf.math.special.dawsn(x)[tf.newaxis])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    with pytest.raises(private_apis.converter_error()):
        converter.convert()
