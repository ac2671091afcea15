"""The plot as PNG, by Pillow (the optional extra `plot`) and the font that comes with it."""

from __future__ import annotations

import io

from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.plot import STYLES, Area, Dot, Picture, Polyline

SCALE = 2
"""Pixels for each unit of the picture: sharp on screens of twice the density."""
SMOOTH = 2
"""It is drawn so much larger first: Pillow's lines have no smooth edges."""
MOST_PIXELS = 100_000_000


def png(picture: Picture, *, dark: bool = False) -> bytes:
    """The picture on a light ground, or a dark one. Raises `ConfigError` without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "a PNG needs Pillow: pip install 'joulebook[plot]', or give a name that ends in .svg"
        ) from None
    factor = SCALE * SMOOTH
    width, height = round(picture.width * factor), round(picture.height * factor)
    if width * height > MOST_PIXELS:
        raise ConfigError(f"a PNG of {width} x {height} pixels: give a name that ends in .svg")
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
