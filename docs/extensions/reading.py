"""How pages and docstrings are read, beyond what MyST, autodoc and napoleon know."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature


def leave_out(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what a class inherits from Keras, scikit-learn or Python, and fields that `Attributes:` describes."""
    source = getattr(member, "fget", None) or getattr(member, "__objclass__", None) or member
    module = getattr(source, "__module__", None)
    foreign = isinstance(module, str) and not module.startswith("tfvae")
    return True if foreign or type(member).__name__ == "_tuplegetter" else None


def sign(
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: str, returned: str | None
) -> tuple[str, str | None] | None:
    """Gives layers and models the signature of their constructor, which Keras hides behind a `__new__`."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    constructor = inspect.signature(member.__init__)
    without_self = constructor.replace(parameters=list(constructor.parameters.values())[1:])
    return stringify_signature(without_self, show_annotation=False), returned


def escape(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Lets stars, bars and underscores stand for themselves: in the docstrings only backquotes mean something."""
    parts = re.split("(`+[^`]+`+)", "\n".join(lines))
    parts[::2] = [re.sub(r"[*|]|_\b", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def link_to_project(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lets links to the documents above docs/, as GitHub follows them, lead to the pages that include these."""
    source[0] = re.sub(r"\]\(\.\./([A-Z]+)\.md\)", lambda found: f"](project/{found[1].lower()}.md)", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", link_to_project)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-signature", sign)
    # Before napoleon, which writes stars of its own.
    app.connect("autodoc-process-docstring", escape, priority=400)
    return {"parallel_read_safe": True}
