"""How long to wait before the next try: doubling with each failure, and never all at one time."""

from __future__ import annotations

import random
from collections.abc import Callable


def pause_s(
    failures: int, first_s: float, most_s: float, lot: Callable[[], float] = random.random
) -> float:
    """Return the seconds to wait after `failures` failures in a row (1 or more).

    From `first_s` up to `most_s`, by up to half more or less as `lot` (in [0, 1)) has it, so that
    many who failed at once do not come back at once.
    """
    return min(first_s * 2.0 ** min(failures - 1, 30), most_s) * (0.5 + lot())
