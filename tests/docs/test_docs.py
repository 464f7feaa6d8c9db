"""What the documents say is executed and checked."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers import pages
from tfvae import likelihoods, objectives, posteriors, priors
from tfvae.cli import commands
from tfvae.distribute import strategies

DOCS = Path(__file__).parents[2] / "docs"
INDEX, GALLERY = DOCS / "index.md", DOCS / "gallery.md"
PAGES = sorted(set(DOCS.glob("*.md")) - {INDEX, GALLERY})
# Pages of results: tables, each with the benchmark command that made it.
RESULTS = [DOCS / "results.md", DOCS / "performance.md"]
# Pages that only the slow tests run: default tests of the README, of inference, of the estimators, of the models and
# their parts, of the data, of the evaluation and of the strategies call the same functions.
RUN_SLOWLY = ("amortized", "anomalies", "data", "device", "distributed", "evaluation", "inference", "models", "parts")
RUN_SLOWLY += ("coming_from", "complaints", "performance", "recipes", "report", "results", "samples")
RUN_SLOWLY += ("security", "sequences", "sharing")
# Pages whose code needs packages that the extra `test` does not bring.
EXTRA = [DOCS / "tuning.md"]
SLOW = EXTRA + [DOCS / f"{name}.md" for name in RUN_SLOWLY]


def table(text, heading):
    """The rows of the first table under a heading, each a list of cells."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW) + [pytest.mark.extra] * (page in EXTRA))
        for page in PAGES
    ],
    ids=lambda page: page.name,
)
def test_the_names_of_a_page_exist_and_its_python_runs_from_top_to_bottom(page, run_python, tmp_path):
    code = pages.python(page.read_text())
    names = sorted(set(re.findall(r"`(tfvae(?:\.\w+)+)", page.read_text())))
    assert code or page in RESULTS
    assert names
    # The names come first, because the imports of the code may define more names.
    names_exist = "import os, sys, tfvae\nos.chdir(sys.argv[1])\nfor name in sys.argv[2:]:\n    eval(name)\n"
    run_python(names_exist + code, tmp_path, *names)


def test_every_page_is_in_the_list_and_in_the_table_of_contents():
    listed, *trees = INDEX.read_text().split("```{toctree}")
    names = {page.stem for page in [*PAGES, GALLERY]}
    assert names <= set(re.findall(r"\((\w+)\.md\)", listed))
    assert names <= set(re.findall(r"^(\w+)$", "\n".join(trees), re.MULTILINE))


@pytest.mark.parametrize("slot", [posteriors, priors, likelihoods, objectives], ids=lambda module: module.__name__)
def test_every_part_is_in_its_table(slot):
    headings = {posteriors: "Posteriors", priors: "Priors", likelihoods: "Likelihoods", objectives: "Objectives"}
    rows = table((DOCS / "parts.md").read_text(), headings[slot])
    assert sorted(row[0].strip("`") for row in rows) == sorted(f"{slot.__name__}.{name}" for name in slot.__all__)


def test_every_strategy_is_described():
    rows = table((DOCS / "distributed.md").read_text(), "A strategy")
    assert [row[0].strip("`") for row in rows] == list(strategies.Name.__args__)


def test_the_flags_that_the_pages_name_exist(capsys):
    pages = [page for page in PAGES if page not in RESULTS]
    texts = [re.sub(r"python (benchmarks|examples)/[^`]*", "", page.read_text()) for page in pages]
    flags = {flag for text in texts for flag in re.findall(r"--([a-z_]+)", text)}
    of_others = {"enable_batching", "logdir"}
    known = {"config"}
    for command in ("train", "export", "generate", "predict", "detect", "explore", "compare"):
        with pytest.raises(SystemExit):
            commands.main([command, "--print_config"])
        known |= set(yaml.safe_load(capsys.readouterr().out))
    assert flags - of_others <= known


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.name)
def test_the_commands_of_the_results_exist(page):
    commands = re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", page.read_text())
    assert commands
    for script, arguments in commands:
        source = (DOCS.parent / script).read_text()
        if "exported.arguments(" in source:
            source += (DOCS.parent / "benchmarks/exported.py").read_text()
        for flag in re.findall(r"--[a-z-]+", arguments):
            assert f'"{flag}"' in source, f"{script} has no {flag}"
