"""The directive `gallery`: every picture that the notebooks draw, each a link to where it is drawn."""

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

NOTEBOOKS = "notebooks/"


class Place(nodes.General, nodes.Element):
    """Where the gallery is put once all notebooks have been executed."""


class Gallery(SphinxDirective):
    """Marks the place of the gallery."""

    def run(self) -> list[nodes.Node]:
        """Called where the directive stands."""
        return [Place()]


def pictures(document: nodes.document) -> Iterator[tuple[nodes.image, nodes.section]]:
    """Each picture that a cell of a notebook drew, with the section it is in."""
    for image in document.findall(nodes.image):
        section = image.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        if section is not None:
            yield image, section


def name_pictures(app: Sphinx, document: nodes.document) -> None:
    """Gives each picture of a notebook the title of its section as the text for those who do not see it."""
    if app.env.docname.startswith(NOTEBOOKS):
        for image, section in pictures(document):
            image.setdefault("alt", section.next_node(nodes.title).astext())


class Fill(SphinxPostTransform):
    """Puts the pictures in the place of the directive, notebook by notebook in the order of the table of contents."""

    default_priority = 5

    def run(self) -> None:
        """Called for every page, when all have been read."""
        for place in self.document.findall(Place):
            children: list[nodes.Node] = []
            for docname in self.env.toctree_includes.get(f"{NOTEBOOKS}index", []):
                children += self._of(docname)
            place.replace_self(children)

    def _of(self, docname: str) -> list[nodes.Node]:
        title = self.env.titles[docname].astext()
        link = make_refnode(self.app.builder, self.env.docname, docname, None, nodes.Text(title))
        row = nodes.container(classes=["gallery"])
        for image, section in pictures(self.env.get_doctree(docname)):
            heading = section.next_node(nodes.title).astext()
            shown = nodes.image(uri=image["uri"], candidates=image["candidates"], alt="")
            to = make_refnode(
                self.app.builder, self.env.docname, docname, section["ids"][0], [shown, nodes.Text(heading)]
            )
            row += nodes.paragraph("", "", to)
        return [nodes.paragraph("", "", nodes.strong("", "", link)), row]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(Place)
    app.add_directive("gallery", Gallery)
    app.add_post_transform(Fill)
    app.connect("doctree-read", name_pictures)
    return {"parallel_read_safe": True}
