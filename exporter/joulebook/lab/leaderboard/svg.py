"""The plot as SVG: its colours follow the reader's light or dark setting."""

from __future__ import annotations

from html import escape

from joulebook.lab.leaderboard.plot import STYLES, Area, Dot, Picture, Point, Polyline, Shape


def svg(picture: Picture, title: str = "Results against the energy they took") -> str:
    """A document of its own. All text from outside is escaped, and there is no script in it."""
    light = "".join(f".{name}{{--c:{style.light}}}" for name, style in STYLES.items())
    dark = "".join(f".{name}{{--c:{style.dark}}}" for name, style in STYLES.items())
    width, height = f"{picture.width:g}", f"{picture.height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{escape(title)}</title>\n'
        f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}"
        "text,.fill{fill:var(--c)}.line{fill:none;stroke:var(--c);stroke-linejoin:round}"
        ".ring{fill:none;stroke:var(--c);stroke-width:1.2}"
        "text{font-family:system-ui,'Helvetica Neue',Arial,sans-serif}.b{font-weight:600}</style>\n"
        f'<rect class="ground fill" width="{width}" height="{height}"/>\n'
        + "\n".join(_drawn(shape) for shape in picture.shapes)
        + "\n</svg>\n"
    )


def _drawn(shape: Shape) -> str:
    if isinstance(shape, Polyline):
        return (
            f'<polyline class="{shape.style} line" stroke-width="{shape.width:g}" '
            f'points="{_points(shape.points)}"/>'
        )
    if isinstance(shape, Area):
        return f'<polygon class="{shape.style} fill" points="{_points(shape.points)}"/>'
    if isinstance(shape, Dot):
        kind = "ring" if shape.hollow else "fill"
        x, y = shape.at
        return (
            f'<circle class="{shape.style} {kind}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{shape.radius:g}"><title>{escape(shape.title)}</title></circle>'
        )
    x, y = shape.at
    bold = " b" if shape.bold else ""
    return (
        f'<text class="{shape.style}{bold}" x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" '
        f'text-anchor="{shape.anchor}">{escape(shape.text)}</text>'
    )


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
