"""The package as a whole: the effects of importing it, and that everything public is documented and typed."""

import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import types

import pytest

import tfvae

IMPORT = """
    import json, logging, os, random, sys, warnings
    import keras, numpy as np, tensorflow as tf, tensorflow_probability as tfp

    # TFP is lazy: what it does at its first use is not of our making.
    tfp.distributions.Normal(0.0, 1.0)

    def state():
        return {
            "floatx": keras.config.floatx(),
            "epsilon": keras.config.epsilon(),
            "dtype policy": keras.config.dtype_policy().name,
            "image_data_format": keras.config.image_data_format(),
            "interactive logging": keras.config.is_interactive_logging_enabled(),
            "traceback filtering": keras.config.is_traceback_filtering_enabled(),
            "Python's random state": repr(random.getstate()),
            "NumPy's random state": repr(np.random.get_state(legacy=False)),
            "NumPy's print options": repr(np.get_printoptions()),
            "NumPy's errors": repr(np.geterr()),
            "eager": tf.executing_eagerly(),
            "functions run eagerly": tf.config.functions_run_eagerly(),
            "jit": tf.config.optimizer.get_jit(),
            "soft placement": tf.config.get_soft_device_placement(),
            "TensorFlow's global seed": repr(tf.random.get_global_generator().state.numpy().tolist()),
            "log levels": [logging.getLogger(name).level for name in (None, "tensorflow", "absl", "keras")],
            "log handlers": [repr(logging.getLogger(name).handlers) for name in (None, "tensorflow", "absl")],
            "warnings": repr(warnings.filters),
        }

    before, modules = state(), set(sys.modules)
    import tfvae
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    registered = [name for name in keras.saving.get_custom_objects() if name.startswith("tfvae")]
    imported = sorted(set(sys.modules) - modules)
    print(json.dumps({"changed": changed, "modules": imported, "registered": registered}), flush=True)
    # An interpreter that ends in order takes two seconds to free all modules.
    os._exit(0)
"""


@pytest.fixture(scope="module")
def printed(run_new_python):
    return run_new_python(IMPORT).splitlines()


def test_import_prints_nothing(printed):
    assert len(printed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("first", [name for name in tfvae.__all__ if name not in ("export", "data")])
def test_whatever_is_used_first_all_models_are_registered(first, run_new_python):
    models = ("VAE", "VQVAE", "ConditionalVAE", "HierarchicalVAE", "SemiSupervisedVAE", "SequentialVAE")
    models += ("DeepHierarchicalVAE", "VariationalInference")
    script = f"""
        import tfvae
        tfvae.{first}
        import keras
        for name in {models}:
            assert keras.saving.get_registered_object("tfvae>" + name) is getattr(tfvae, name)
    """
    run_new_python(script)


@pytest.mark.slow
def test_a_module_that_imports_keras_may_be_the_first(run_new_python):
    run_new_python(
        "import os, tfvae; tfvae.VariationalModel; tfvae.priors.StandardNormal; tfvae.ConditionalVAE; os._exit(0)"
    )


def test_import_changes_no_global_state(printed):
    assert json.loads(printed[-1])["changed"] == []


def test_import_leaves_what_only_some_functions_need(printed):
    rooms = {name.partition(".")[0] for name in json.loads(printed[-1])["modules"]}
    assert not rooms & {"arviz_base", "arviz_stats", "xarray", "pandas", "matplotlib"}


# Layers and metrics that a model makes by itself, so that a file holds their weights, but never their names.
MADE_BY_MODELS = {
    "Approximation",
    "CausalBlock",
    "CodeDensity",
    "ControlVariate",
    "LocalLatents",
    "MaskedDense",
    "Perplexity",
    "TypicalFeatures",
    "_Accuracy",
    "_Constant",
    "_Point",
    # Their configurations are part of that of the model.
    "Series",
    "Table",
    "Vocabulary",
    # It is for exports alone, and refuses to be saved.
    "DetectorModel",
}
# Base classes of the models, which nobody makes an object of.
BASES = {
    "AmortizedExport",
    "AmortizedPosterior",
    "ArvizExport",
    "AutoencoderExport",
    "AutoregressiveExport",
    "CodesExport",
    "HookedModel",
    "MaximumLikelihood",
    "OfCodes",
    "PosteriorExport",
    "Prediction",
    "SequentialExport",
    "SimulatingModel",
    "StatefulModel",
    "StepByStep",
    "StepDetection",
    "StateSpace",
    "TableExport",
}


def serializable_classes():
    """Every class of the package that Keras could write to a file, by the name that the file would hold."""
    import keras

    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if (
                inspect.isclass(value)
                and value.__module__ == module
                and hasattr(value, "get_config")
                and not inspect.isabstract(value)
                and name not in MADE_BY_MODELS | BASES
            ):
                yield keras.saving.get_registered_name(value)


def test_every_class_that_a_file_can_name_is_registered_by_the_import_alone(printed):
    registered = json.loads(printed[-1])["registered"]
    expected = set(serializable_classes())
    assert {"tfvae>VAE", "tfvae.networks>MissingMask", "tfvae.priors>VampPrior"} <= expected
    assert sorted(registered) == sorted(expected)


@pytest.mark.slow
def test_a_file_with_a_missing_mask_loads_after_the_import_alone(run_new_python, tmp_path):
    encoder = tfvae.networks.dense_encoder((4,), hidden=(3,), missing_mask=True)
    likelihood = tfvae.likelihoods.Missing(tfvae.likelihoods.Normal(), fill=False)
    tfvae.VAE(encoder, tfvae.networks.dense_decoder(2, (4,)), 2, likelihood=likelihood).save(tmp_path / "model.keras")
    run_new_python("import sys, tfvae, keras; keras.saving.load_model(sys.argv[1])", tmp_path / "model.keras")


def test_import_brings_in_no_library_that_only_some_need(printed):
    modules = json.loads(printed[-1])["modules"]
    assert "tfvae.models.vae" in modules
    assert {"matplotlib", "pandas", "sklearn"} & {module.partition(".")[0] for module in modules} == set()


# Documentation and types

MODULES = sorted(
    [tfvae.__name__]
    + [module.name for module in pkgutil.walk_packages(tfvae.__path__, "tfvae.") if "__main__" not in module.name]
)


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


def functions_of(owner, prefix):
    """The functions, properties and class or static methods that `owner` itself defines, by name."""
    for name, value in vars(owner).items():
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, classmethod | staticmethod):
            value = value.__func__
        # TFP copies some of its own methods into every distribution.
        if (
            isinstance(value, types.FunctionType)
            and is_public(name)
            and "tensorflow_probability" not in value.__module__
        ):
            yield f"{prefix}.{name}", inspect.unwrap(value)


def public_definitions(module_name):
    """The public classes and functions that a module defines, and the public methods of those classes, by name."""
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        if is_public(name) and getattr(value, "__module__", None) == module_name:
            if inspect.isclass(value):
                yield f"{module_name}.{name}", value
                yield from functions_of(value, f"{module_name}.{name}")
                yield f"{module_name}.{name}.__init__", vars(value).get("__init__", value)
            elif inspect.isfunction(value):
                yield f"{module_name}.{name}", inspect.unwrap(value)


def test_the_walk_finds_modules_classes_functions_methods_and_properties():
    assert {"tfvae", "tfvae.elbo", "tfvae.models.vae", "tfvae.networks", "tfvae.export"} <= set(MODULES)
    names = {name for module in MODULES for name, _ in public_definitions(module)}
    assert {
        "tfvae.models.vae.VAE",
        "tfvae.models.vae.VAE.decode",
        "tfvae.models.autoencoder.Autoencoder.from_config",
        "tfvae.models.vae.VAE.__init__",
        "tfvae.elbo.ElboTerms.elbo",
        "tfvae.training.batch.peek",
        "tfvae.networks.dense.dense_encoder",
    } <= names
    assert "tfvae.models.vae.VariationalModel" not in names


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_everything_public_in_it_has_a_docstring(module):
    assert importlib.import_module(module).__doc__
    without = [
        name
        for name, value in public_definitions(module)
        # Dataclasses and named tuples generate a docstring: "ELBO(*, beta=1.0)".
        if not name.endswith("__init__") and (not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("))
    ]
    assert without == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_and_method_has_type_hints(module):
    without = []
    for name, value in public_definitions(module):
        if inspect.isclass(value):
            continue
        parameters = list(inspect.signature(value).parameters.values())
        untyped = [p.name for p in parameters if p.annotation is p.empty and p.name not in ("self", "cls")]
        if untyped or "return" not in value.__annotations__:
            without.append((name, untyped))
    assert without == []


def test_all_names_exist_and_have_docstrings():
    assert len(set(tfvae.__all__)) == len(tfvae.__all__)
    for name in tfvae.__all__:
        assert getattr(tfvae, name).__doc__, name


def test_all_holds_every_public_class_that_is_imported():
    assert {name for name, value in vars(tfvae).items() if is_public(name) and inspect.isclass(value)} <= set(
        tfvae.__all__
    )


def test_the_version_is_that_of_the_installed_package():
    assert tfvae.__version__ == importlib.metadata.version("tfvae")
