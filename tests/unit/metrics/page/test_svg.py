from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from joulebook.metrics.page import markup


def shapes(picture: str, style: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(picture)
    return [element for element in root.iter() if element.get("class") == style]


@pytest.mark.parametrize(
    ("share", "width"), [(0.0, "0.0"), (0.375, "37.5"), (1.0, "100.0"), (7.0, "100.0"), (-1, "0.0")]
)
def test_bar_is_filled_to_its_share(share: float, width: str) -> None:
    (fill,) = shapes(markup.bar(share), "fill")
    assert fill.get("width") == width


def test_parts_lie_side_by_side() -> None:
    picture = markup.parts([("booked", 60), ("rest", 40), ("pending", 0)])
    (booked,), (rest,) = shapes(picture, "booked"), shapes(picture, "rest")
    assert (booked.get("x"), booked.get("width")) == ("0.00", "60.00")
    assert (rest.get("x"), rest.get("width")) == ("60.00", "40.00")
    assert not shapes(picture, "pending")
    assert not shapes(markup.parts([("booked", 0)]), "booked")


def test_key_has_its_colour() -> None:
    assert len(shapes(markup.key("pending"), "pending")) == 1


def test_sparkline_spans_its_time_and_keeps_peaks() -> None:
    points = [(1000.0 + t, 900.0 if t == 451 else 100.0) for t in range(900)]
    (line,) = shapes(markup.sparkline(points, 900, "power"), "line")
    spots = [tuple(map(float, spot.split(","))) for spot in str(line.get("points")).split()]
    assert len(spots) <= 301
    assert spots[-1][0] == pytest.approx(300, abs=1)
    assert min(y for _, y in spots) == pytest.approx(60 * (1 - 1 / 1.08), abs=0.1)


def test_sparkline_is_broken_where_nothing_was_read() -> None:
    points = [(float(t), 5.0) for t in range(900) if not 300 < t < 400]
    assert len(shapes(markup.sparkline(points, 900, "power"), "line")) == 2


def test_sparkline_leaves_out_what_is_older() -> None:
    points = [(0.0, 99_999.0), (10_000.0, 10.0), (10_001.0, 10.0)]
    (line,) = shapes(markup.sparkline(points, 900, "power"), "line")
    assert all(float(x) >= 0 for x in re.findall(r"(-?[\d.]+),", str(line.get("points"))))


def test_sparkline_of_nothing_or_of_zero() -> None:
    assert markup.sparkline([], 900, "power") == ""
    assert shapes(markup.sparkline([(1.0, 0.0), (2.0, 0.0)], 900, '"<power>"'), "line")
