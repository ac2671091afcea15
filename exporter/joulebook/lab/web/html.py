"""Pages made of templates: everything that comes from outside is escaped, and on one line."""

from __future__ import annotations

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from joulebook.core.sanitize import clean, one_line
from joulebook.lab.web.viewer import Viewer

_LONGEST = 10_000
"""Characters of one text; a paragraph of a statement has some hundred."""

_MOST_TEXT = 200_000
"""Characters of several lines."""


def _cleaned(value: object) -> object:
    """Return text from outside on one line, without what could pass for something else."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return one_line(value, _LONGEST)
    return value


_templates = Environment(
    loader=PackageLoader("joulebook.lab.web"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_cleaned,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _lines(text: str) -> Markup:
    """Return text of several lines as it is, to be copied."""
    return escape(clean(text, _MOST_TEXT))


_templates.filters["lines"] = _lines


def page(template: str, viewer: Viewer, status: int = 200, /, **values: object) -> Response:
    """Return a page made of a template."""
    text = _templates.get_template(template).render(viewer=viewer, **values)
    return Response(text, status, media_type="text/html")


def message(
    request: Request, status: int, text: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a page that says one thing."""
    response = page("message.html", Viewer(), status, text=text, login=status == 401)
    response.headers.update(headers or {})
    return response
