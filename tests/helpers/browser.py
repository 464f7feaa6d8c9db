"""Chromium without a window: opens and serves pages, and reads and moves what is on the page to explore a model."""

import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np

_WAIT = 60


def driver(width=1280, dark=False):
    """A new Chromium of some width and colour scheme, to be quit by the caller."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", f"window-size={width},1400"),
        *(["blink-settings=preferredColorScheme=0"] if dark else []),
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    # No window is narrower than 500 pixels, but a phone is.
    size = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return driver


def modules():
    """The folder node_modules with @litertjs/core and axe-core."""
    return Path(os.environ["LITERTJS_MODULES"])


def serve(folder):
    """Yields the address of a folder on a server that sends no special headers, as static hosts do."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def violations(page):
    """What axe-core finds wrong on a page: each rule, with the elements that break it and why."""
    page.execute_script((modules() / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    found = page.execute_async_script("axe.run().then(arguments[0])")
    assert found["passes"]
    return [
        (rule["id"], [(node["html"][:200], node["failureSummary"]) for node in rule["nodes"]])
        for rule in found["violations"]
    ]


def wait(driver, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, _WAIT).until(lambda _: condition())


def text(driver, name):
    return driver.find_element("id", name).text


def values(driver):
    return np.array(json.loads(driver.find_element("id", "generated").get_attribute("data-values")))


def set_slider(driver, name, value):
    before = values(driver)
    driver.execute_script(
        "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
        "input.dispatchEvent(new Event('input'));",
        name,
        value,
    )
    wait(driver, lambda: not np.array_equal(values(driver), before))


def score_of(driver):
    return float(driver.find_element("id", "verdict").get_attribute("data-score") or "nan")


def choose(driver, index):
    driver.execute_script(
        "const s = document.getElementById('example'); s.value = arguments[0]; s.dispatchEvent(new Event('change'));",
        index,
    )
