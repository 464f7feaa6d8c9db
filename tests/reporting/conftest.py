"""The page to explore a model in Chromium, for the tests that are marked `browser`."""

import pytest

from tests.helpers import browser


@pytest.fixture(scope="module")
def open_page():
    """Opens an address in Chromium of some width and waits until the page is ready."""
    drivers = []

    def open_at(address, width=1280, dark=False):
        driver = browser.driver(width, dark)
        drivers.append(driver)
        driver.get(address)
        browser.wait(driver, lambda: browser.text(driver, "status") != "Loading the model.")
        assert browser.text(driver, "status").startswith("The model is ready.")
        return driver

    yield open_at
    for driver in drivers:
        driver.quit()


@pytest.fixture(scope="module")
def runtime():
    return browser.modules()
