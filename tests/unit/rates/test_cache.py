"""What is kept on disk of the last good answers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from joulebook.core.money.rates import Point, Quality
from joulebook.rates.cache import Cache, CachedRates
from joulebook.rates.contract import Quantity

POINTS = (
    Point(0, -5, "nEUR/kWh", "feed", Quality.MEASURED, 3600),
    Point(3600, 7, "nEUR/kWh", "feed", Quality.FORECAST),
)
KEPT = CachedRates("neso|GB", 1234, POINTS)


def test_what_was_stored_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "rates"
    Cache(folder).store(Quantity.CARBON, KEPT)
    assert Cache(folder).load(Quantity.CARBON, "neso|GB") == KEPT
    assert Cache(folder).load(Quantity.PRICE, "neso|GB") is None
    assert [path.name for path in folder.iterdir()] == ["carbon.json"]


def test_answers_of_another_source_are_not_used(tmp_path: Path) -> None:
    Cache(tmp_path).store(Quantity.CARBON, KEPT)
    assert Cache(tmp_path).load(Quantity.CARBON, "neso|NI") is None


@pytest.mark.parametrize("text", [b"", b"{", b"null", b'{"identity":1}', b"\xff", b"[" * 9000])
def test_a_damaged_file_is_done_without(tmp_path: Path, text: bytes) -> None:
    Cache(tmp_path).store(Quantity.CARBON, KEPT)
    (tmp_path / "carbon.json").write_bytes(text)
    assert Cache(tmp_path).load(Quantity.CARBON, "neso|GB") is None
    Cache(tmp_path).store(Quantity.CARBON, KEPT)
    assert Cache(tmp_path).load(Quantity.CARBON, "neso|GB") == KEPT


def test_points_out_of_order_are_damage(tmp_path: Path) -> None:
    Cache(tmp_path).store(Quantity.CARBON, CachedRates("a", 1, POINTS[::-1]))
    assert Cache(tmp_path).load(Quantity.CARBON, "a") is None


def test_a_cut_off_file_cannot_come_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Cache(tmp_path).store(Quantity.CARBON, KEPT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Cache(tmp_path).store(Quantity.CARBON, CachedRates("neso|GB", 9999, ()))
    assert [r.getMessage().rpartition(": ")[2] for r in caplog.records] == [
        "No space left on device"
    ]
    assert Cache(tmp_path).load(Quantity.CARBON, "neso|GB") == KEPT
    assert [path.name for path in tmp_path.iterdir()] == ["carbon.json"]


def test_no_folder_and_read_only(tmp_path: Path) -> None:
    Cache(None).store(Quantity.CARBON, KEPT)
    assert Cache(None).load(Quantity.CARBON, "neso|GB") is None
    Cache(tmp_path / "rates", read_only=True).store(Quantity.CARBON, KEPT)
    assert not (tmp_path / "rates").exists()
