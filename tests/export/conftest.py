"""VAEs that are exported once for all files of tests."""

import functools
import os

import pytest

from tests.helpers.processes import Processes


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Makes, once for each case, an `Exported`: "linear" or one of `IMAGES`."""
    from tests.helpers.exports import Exported

    base = tmp_path_factory.getbasetemp()
    # The folders of the processes that share the tests lie in one folder.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    folder.mkdir(exist_ok=True)
    return functools.cache(lambda case: Exported(case, folder))


ONLY_TENSORFLOW = """
# TensorFlow would import Keras by itself where it is there.
sys.modules.update(dict.fromkeys(("keras", "tf_keras", "tensorflow_probability")))
import tensorflow
"""


@pytest.fixture(scope="session")
def run_with_tensorflow(tmp_path_factory):
    """Runs a script in its own process, which has imported TensorFlow and can import neither Keras nor TFP."""
    with Processes(tmp_path_factory.mktemp("tensorflow"), ONLY_TENSORFLOW) as processes:
        yield processes.run
