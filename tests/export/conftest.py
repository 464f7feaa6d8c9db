"""VAEs that are exported once for all files of tests."""

import functools

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Makes, once for each case, an `Exported`: "linear" or one of `IMAGES`."""
    from tests.helpers.exports import Exported

    return functools.cache(lambda case: Exported(case, tmp_path_factory.mktemp("exported")))
