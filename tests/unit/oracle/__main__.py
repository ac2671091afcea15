"""`python -m tests.unit.oracle SEED`: play a scenario again, and the least of it that fails."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3] / part) for part in ("exporter", ".")]

from tests.unit.oracle.node import play  # noqa: E402
from tests.unit.oracle.scenario import Plan, plan, smaller  # noqa: E402


def _fails(candidate: Plan) -> bool:
    try:
        play(candidate)
    except Exception:
        return True
    return False


def main(seed: int) -> None:
    """Print the least that fails, and raise what it raises."""
    found = smaller(plan(seed), _fails)
    print(*found._replace(actions=())._asdict().items(), *found.actions, sep="\n")
    play(found)
    print("nothing is wrong")


if __name__ == "__main__":
    main(int(sys.argv[1]))
