"""The estimators: scikit-learn's own checks, planted anomalies, densities, gaps, pipelines and fresh processes."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import tfvae
from tfvae.sklearn import VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer, members

ESTIMATORS = [VAEOutlierDetector, VAEDensity, VAETransformer, VAEImputer]
# Their checks are of conventions, which a few steps of training show as well as many.
SHORT = {"max_epochs": 1, "hidden": (4,), "latent_dim": 1}


def short(estimator, **arguments):
    return estimator(**SHORT, random_state=0, **arguments)


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Epochs of Keras of a single step, where a whole one is not needed to learn anything."""


# Those that do not train, and one that does.
QUICK = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_parameters_default_constructible",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_mixin_order",
    "check_positive_only_tag_during_fit",
)


def name_of(check):
    return getattr(check, "func", check).__name__


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.__name__)
def test_the_checks_of_scikit_learn_that_are_quick(estimator):
    done = set()
    for instance, check in estimator_checks_generator(short(estimator)):
        if name_of(check) in QUICK:
            check(instance)
            done.add(name_of(check))
    assert len(done) >= len(QUICK) - 1


@pytest.mark.slow
@parametrize_with_checks([short(estimator) for estimator in ESTIMATORS])
def test_all_checks_of_scikit_learn(estimator, check):
    check(estimator)
