"""The site is built without warnings; links lead somewhere, every public name has an entry, and notebooks draw."""

import inspect
import os
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tfvae

pytestmark = [pytest.mark.slow, pytest.mark.extra]

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "docs/notebooks").glob("*.md") if path.stem != "index")
MODULES = {"tfvae": tfvae} | {
    f"tfvae.{name}": getattr(tfvae, name) for name in tfvae.__all__ if inspect.ismodule(getattr(tfvae, name))
}


class Page(HTMLParser):
    """What a page links to, the places in it that can be linked to, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.pictures = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "img":
            self.pictures.append(attrs)
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as the command of CONTRIBUTING.md builds it."""
    (line,) = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if "--fail-on-warning" in line]
    command = line.split("#")[0].split()
    assert command[:3] == ["python", "-m", "sphinx"]
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command[1:-1], folder], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path."""
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_within_the_site_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            fragment = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (fragment and target in pages and fragment not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_site_asks_nothing_of_other_servers_to_be_shown(pages):
    links = [link for page in pages.values() for link in page.links if link.endswith((".js", ".css", ".png", ".svg"))]
    fetched = {link for link in links if "//" in link}
    assert not fetched


def test_search_finds_every_page(site, pages):
    index = (site / "searchindex.js").read_text()
    for path in ROOT.glob("docs/**/*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert f'"{name}"' in index
        assert site / f"{name}.html" in pages


def documented(pages):
    return {name for page in pages.values() for name in page.ids if name and name.startswith("tfvae.")}


def test_every_public_name_has_an_entry(pages):
    names = documented(pages)
    missing = [
        f"{path}.{name}"
        for path, module in MODULES.items()
        for name in module.__all__
        if f"{path}.{name}" not in names and not inspect.ismodule(getattr(module, name))
    ]
    assert not missing


def test_a_model_lists_its_methods_and_not_those_of_keras(pages):
    names = documented(pages)
    for name in ("fit", "encode", "generate", "detect", "calibrate", "log_likelihood"):
        assert f"tfvae.VAE.{name}" in names
    for name in ("add_loss", "count_params", "get_layer", "summary", "train_step"):
        assert f"tfvae.VAE.{name}" not in names


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_pictures_that_the_gallery_shows(site, pages, name):
    drawn = {image["src"].rsplit("/", 1)[1] for image in pages[site / f"notebooks/{name}.html"].pictures}
    shown = {image["src"].rsplit("/", 1)[1] for image in pages[site / "gallery.html"].pictures}
    assert drawn
    assert drawn <= shown
    assert all(image["alt"] for image in pages[site / f"notebooks/{name}.html"].pictures)
