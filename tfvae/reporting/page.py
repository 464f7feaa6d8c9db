"""The HTML of a report: one file without requests, readable on a phone, on paper and in the dark."""

import base64
import html
import importlib.resources
import io
import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        title: its heading.
        body: its HTML.
    """

    title: str
    body: str


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The whole document.

    Args:
        title: the title, as text.
        lead: what stands below the title, as HTML.
        sections: the sections in their order.
    """
    parts, links = [], []
    for number, section in enumerate(sections, start=1):
        links.append(f'<li><a href="#s{number}">{html.escape(section.title)}</a></li>')
        parts.append(f'<section id="s{number}"><h2>{html.escape(section.title)}</h2>\n{section.body}\n</section>')
    files = importlib.resources.files("tfvae.reporting")
    template = string.Template((files / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), lead=lead, contents="".join(links), sections="\n".join(parts))


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(words)}</p>"


def code(words: str) -> str:
    """Text that keeps its lines."""
    return f'<pre tabindex="0">{html.escape(words)}</pre>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, the first column of which names the rows."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        body += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def picture(figure: Figure, description: str, *, as_pixels: bool = False) -> str:
    """A figure in the page.

    Args:
        figure: the figure.
        description: what it shows, for those who cannot see it.
        as_pixels: PNG in the place of SVG, for pictures that consist of pixels.
    """
    written = io.BytesIO()
    if as_pixels:
        figure.savefig(written, format="png", dpi=120)
        source = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
        return f'<img src="{source}" alt="{html.escape(description)}">'
    # Text as text, which can be read aloud and searched, and ids that are the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue().decode()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
    return f'<div class="figure" tabindex="0">{svg}</div>'
