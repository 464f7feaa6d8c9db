"""The HTML of a report: one file without requests, readable on a phone, on paper and in the dark."""

import base64
import html
import importlib.resources
import io
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

# The least size of text in figures, in CSS pixels.
_LEAST_TEXT = 9
# The least widths of figures, in rem of 16 CSS pixels, each with a class in the style of the page.
_WIDTHS = (21, 28, 36, 44, 52, 60)


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


def listed(facts: Mapping[str, str]) -> str:
    """Short texts with their names."""
    return "<dl>" + "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(f)}</dd>" for n, f in facts.items()) + "</dl>"


def picture(figure: Figure, description: str, *, as_pixels: bool = False) -> str:
    """A figure in the page.

    Args:
        figure: the figure.
        description: what it shows, for those who cannot see it.
        as_pixels: PNG in the place of SVG, for pictures that consist of pixels.
    """
    # As a text of the page, whose size does not change with that of the figure.
    title = figure.get_suptitle()
    figure.suptitle("")
    written = io.BytesIO()
    if as_pixels:
        figure.savefig(written, format="png", dpi=120, bbox_inches="tight", pad_inches=0.05)
        source = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
        shown = f'<img src="{source}" alt="{html.escape(description)}">'
    else:
        # Text as text, which can be read aloud and searched, and ids that are the same in every run.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
            figure.savefig(written, format="svg", metadata={"Date": None})
        svg = written.getvalue().decode()
        shown = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
    least = _least_width(figure)
    hint = '<p class="hint">Wider than the screen: it scrolls sideways.</p>'
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    kind = " pixels" if as_pixels else ""
    return f'<figure>{caption}<div class="figure{kind} w{least}" tabindex="0">{shown}</div>{hint}</figure>'


def _least_width(figure: Figure) -> int:
    """The width, one of `_WIDTHS`, below which the smallest text of a figure would be hard to read."""
    texts = [*figure.texts, *(words for legend in figure.legends for words in legend.get_texts())]
    for axes in figure.axes:
        # Axes that are switched off show no ticks, and making these would take longer than all else.
        texts += axes.findobj(Text) if axes.axison else [each for each in axes.get_children() if isinstance(each, Text)]
    sizes = [float(words.get_fontsize()) for words in texts if words.get_visible() and words.get_text()]
    if not sizes:
        return _WIDTHS[0]
    # In CSS pixels, of which 96 are an inch, and 4 are 3 points.
    least = figure.get_figwidth() * 96 * _LEAST_TEXT / (min(sizes) * 4 / 3)
    return next((width for width in _WIDTHS if 16 * width >= least), _WIDTHS[-1])
