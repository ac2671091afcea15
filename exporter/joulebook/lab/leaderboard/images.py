"""The plot as an image.

SVG: its colours follow the reader's light or dark setting. PNG: by Pillow (the optional extra
`plot`) and the font that comes with it.
"""

from __future__ import annotations

import io
from html import escape

from joulebook.errors import ConfigError
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


SCALE = 2
"""Pixels for each unit of the picture: sharp on screens of twice the density."""
SMOOTH = 2
"""It is drawn so much larger first: Pillow's lines have no smooth edges."""
MOST_PIXELS = 100_000_000


def png(picture: Picture, *, dark: bool = False) -> bytes:
    """Return the picture on a light ground, or a dark one. Raises `ConfigError` without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "a PNG needs Pillow: pip install 'joulebook[plot]', or use a name ending in .svg"
        ) from None
    factor = SCALE * SMOOTH
    width, height = round(picture.width * factor), round(picture.height * factor)
    if width * height > MOST_PIXELS:
        raise ConfigError(f"a PNG of {width} x {height} pixels: use a name ending in .svg")
    colours = {name: style.dark if dark else style.light for name, style in STYLES.items()}
    image = Image.new("RGB", (width, height), colours["ground"])
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Polyline):
            spots = [(x * factor, y * factor) for x, y in shape.points]
            draw.line(spots, colours[shape.style], round(shape.width * factor), joint="curve")
        elif isinstance(shape, Area):
            draw.polygon([(x * factor, y * factor) for x, y in shape.points], colours[shape.style])
        elif isinstance(shape, Dot):
            x, y, r = shape.at[0] * factor, shape.at[1] * factor, shape.radius * factor
            inside = None if shape.hollow else colours[shape.style]
            draw.ellipse(
                (x - r, y - r, x + r, y + r), inside, colours[shape.style], round(1.2 * factor)
            )
    image = image.resize((width // SMOOTH, height // SMOOTH), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in picture.shapes:
        if isinstance(shape, Polyline | Area | Dot):
            continue
        font = ImageFont.load_default(shape.size * SCALE)
        draw.text(
            (shape.at[0] * SCALE, shape.at[1] * SCALE), shape.text.replace("\u202f", " "),
            colours[shape.style], font, anchors[shape.anchor],
            stroke_width=0.5 if shape.bold else 0,
        )  # fmt: skip
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
