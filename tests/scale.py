"""How much a run of the tests tries: one number, which `make nightly` raises."""

from __future__ import annotations

import os

SCALE = max(1, int(os.environ.get("JOULEBOOK_TEST_SCALE", "1")))


def scaled(count: int) -> int:
    """Return how many examples or rounds to try where a usual run tries `count`."""
    return count * SCALE
