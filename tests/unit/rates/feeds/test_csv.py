"""Rates from a CSV file: what is read, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebook.core.money.rates import Point, Quality
from joulebook.errors import FeedWrong
from joulebook.rates.contract import Quantity
from joulebook.rates.feeds import csv

JAN = 1_767_225_600  # 2026-01-01T00:00Z


def read(tmp_path: Path, text: str, quantity: Quantity = Quantity.PRICE) -> tuple[Point, ...]:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    return csv.CsvFile(path, quantity, "EUR").fetch(0, 10)


def refused(tmp_path: Path, text: str, quantity: Quantity = Quantity.PRICE) -> str:
    with pytest.raises(FeedWrong) as caught:
        read(tmp_path, text, quantity)
    assert caught.value.reason == "file"
    start = f"{tmp_path / 'rates.csv'}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def test_prices_with_all_columns(tmp_path: Path) -> None:
    text = (
        "start, per_mwh ,end,quality,source\r\n"
        "2026-01-01T00:00:00Z,-17.31,2026-01-01T01:00:00Z,forecast,auction\r\n"
        "\r\n"
        '2026-01-01T02:00:00+01:00,"310",,,\r\n'
    )
    assert read(tmp_path, text) == (
        Point(JAN, -17_310_000, "nEUR/kWh", "auction", Quality.FORECAST, JAN + 3600),
        Point(JAN + 3600, 310_000_000, "nEUR/kWh", "rates.csv", Quality.MEASURED),
    )


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    text = "\ufeffstart,grams_per_kwh\n2026-01-01T00:00Z,344.14\n"
    (point,) = read(tmp_path, text, Quantity.CARBON)
    assert (point.value, point.unit) == (344_140_000, "ugCO2e/kWh")


HEAD = "start,per_kwh,end,quality\n"
ROW = "2026-01-01T00:00Z,0.3,,\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: '': expected the columns start and per_kwh or per_mwh"),
        ("start,price\n", "line 1: 'start,price': expected the columns start and per_kwh"),
        ("start,per_kwh,per_mwh\n", "expected the columns start and per_kwh or per_mwh"),
        ("start,per_kwh,start\n", "expected the columns"),
        ("start,per_kwh,unit\n", "line 1: column 'unit': expected one of start, end, quality"),
        (HEAD, "no rows: expected at least one below the header"),
        (HEAD + "2026-01-01T00:00Z,0.3\n", "line 2: 2 columns, expected 4"),
        (
            HEAD + "2026-01-01T00:00,0.3,,\n",
            "line 2: start: '2026-01-01T00:00': expected a time "
            "with its offset, like 2026-01-31T08:00:00+01:00",
        ),
        (HEAD + "1.1.2026,0.3,,\n", "line 2: start: '1.1.2026': expected a time"),
        (HEAD + ROW + '2026-01-02T00:00Z,"0,3",,\n', "line 3: per_kwh: '0,3': expected a number"),
        (HEAD + "2026-01-01T00:00Z,,,\n", "line 2: per_kwh: '': expected a number like 0.31"),
        (HEAD + "2026-01-01T00:00Z,1_0,,\n", "line 2: per_kwh: '1_0': expected a number"),
        (HEAD + "2026-01-01T00:00Z,nan,,\n", "line 2: per_kwh: 'nan': expected a number"),
        (HEAD + "2026-01-01T00:00Z,310,,\n", "line 2: per_kwh: '310' is absurd"),
        (HEAD + ROW + ROW, "line 3: start: '2026-01-01T00:00Z': expected a time after the row"),
        (
            HEAD + "2026-01-01T00:00Z,1,2025-12-31T00:00Z,\n",
            "line 2: end: '2025-12-31T00:00Z': expected a time after start",
        ),
        (HEAD + "2026-01-01T00:00Z,1,,sure\n", "line 2: quality: 'sure': expected measured, "),
        (HEAD + '2026-01-01T00:00Z,1,,"open\n', "line 2: unexpected end of data"),
    ],
)
def test_what_is_refused_and_how(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_negative_intensities_are_refused_and_negative_prices_are_not(tmp_path: Path) -> None:
    rows = "2026-01-01T00:00Z,-1\n"
    assert read(tmp_path, "start,per_kwh\n" + rows)[0].value < 0
    said = refused(tmp_path, "start,grams_per_kwh\n" + rows, Quantity.CARBON)
    assert said == "line 2: grams_per_kwh: '-1' is negative"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rates.csv"
    with pytest.raises(FeedWrong, match="cannot be read: No such file"):
        csv.CsvFile(path, Quantity.PRICE, "EUR").fetch(0, 1)
    path.write_bytes(b"start,per_kwh\n\xff")
    with pytest.raises(FeedWrong, match="not UTF-8 at byte 14"):
        csv.CsvFile(path, Quantity.PRICE, "EUR").fetch(0, 1)
    monkeypatch.setattr(csv, "MAX_BYTES", 3)
    with pytest.raises(FeedWrong, match="larger than"):
        csv.CsvFile(path, Quantity.PRICE, "EUR").fetch(0, 1)
