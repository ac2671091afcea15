from __future__ import annotations

import pytest

from joulebook.backoff import pause_s


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (6, 60.0), (10_000, 60.0)]
)
def test_each_failure_doubles_the_pause_up_to_a_bound(failures: int, wait_s: float) -> None:
    assert pause_s(failures, 2.0, 60.0, lambda: 0.5) == wait_s
    assert pause_s(failures, 2.0, 60.0, lambda: 0.0) == wait_s / 2
    assert wait_s / 2 <= pause_s(failures, 2.0, 60.0) < wait_s * 1.5
