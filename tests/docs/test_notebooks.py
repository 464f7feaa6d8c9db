"""The notebooks are found, and their code runs from top to bottom in about the time that they promise."""

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs/notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.md") if path.stem != "index")
# Of the process itself, which waits for others in one of the notebooks, on a machine with other work.
MOST_CPU_SECONDS = 90


def code_of(name):
    """The cells of a notebook as a program: a plot is shown by nobody, and a last line has no value."""
    text = (NOTEBOOKS / f"{name}.md").read_text()
    cells = re.findall(r"^```\{code-cell\} ipython3\n(?:(?::[^\n]*\n)+\n)?(.*?)^```$", text, re.M | re.S)
    return "\n".join(cells).replace("%matplotlib inline\n", "import matplotlib\nmatplotlib.use('svg')\n")


def test_every_notebook_is_in_the_list_and_in_the_table_of_contents():
    index = (NOTEBOOKS / "index.md").read_text()
    assert sorted(re.findall(r"^- \[.*\]\((\w+)\.md\)$", index, re.M)) == NAMES
    assert sorted(re.findall(r"^(\w+)$", index.split("```{toctree}")[1], re.M)) == NAMES


def test_every_notebook_opens_in_jupyter_and_draws():
    for name in NAMES:
        text = (NOTEBOOKS / f"{name}.md").read_text()
        assert text.startswith("---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n")
        assert "%matplotlib inline\n" in text
        assert "tfvae.plots." in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_notebook_runs(name, run_python, tmp_path):
    begin = """
import os, sys, time, warnings
os.chdir(sys.argv[1])
warnings.filterwarnings("ignore", ".*non-interactive")
"""
    end = "\nprint(f'cpu seconds: {time.process_time()}')\n"
    printed = run_python(begin + code_of(name) + end, tmp_path)
    assert float(printed.splitlines()[-1].removeprefix("cpu seconds: ")) < MOST_CPU_SECONDS
