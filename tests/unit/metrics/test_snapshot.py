from __future__ import annotations

import msgspec
import pytest
from tests.unit.metrics.sample import GPU0, GPU1, device, small_view

from joulebook.core.ledger.state import Books
from joulebook.metrics.snapshot import Snapshot


def test_devices_come_by_index_and_once() -> None:
    first, second, newer = device(GPU1, 1), device(GPU0, 0), device(GPU1, 1, power_watts=5.0)
    view = msgspec.structs.replace(small_view(), statuses=(first, second, newer))
    assert view.devices == (second, newer)


def test_utc_is_node_time_and_offset() -> None:
    assert small_view().utc_s == 1_764_005_000.0


def test_view_is_never_changed() -> None:
    with pytest.raises(AttributeError):
        Snapshot("n", Books()).node = "m"  # type: ignore[misc]
