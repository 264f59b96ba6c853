"""Let links to scripts of the gallery, which a clone has, lead to the pages that the site makes of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SCRIPT = re.compile(r"\]\(((?:\.\./)*)gallery/(plot_\w+)\.py\)")


def link_pages(app: Sphinx | None, name: str, source: list[str]) -> None:
    """Change the links of a page, in place."""
    source[0] = SCRIPT.sub(r"](\1examples/\2)", source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Change each page after it is read."""
    app.connect("source-read", link_pages)
    return {"parallel_read_safe": True}
