"""Build these pages as a site, by `make site`: a warning is an error, and so is a dead link."""

from __future__ import annotations

project = "Joulebook"
author = "the Joulebook contributors"
copyright = f"{author}. Apache-2.0"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Every joule, booked once, to the experiment that consumed it",
    "fixed_sidebar": True,
}
html_static_path: list[str] = []
html_show_sphinx = False
html_show_copyright = False
myst_heading_anchors = 4
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]
