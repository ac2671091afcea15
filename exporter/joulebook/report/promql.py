"""The queries of a report, as text: exact over any range, since nothing is extrapolated.

    last(M) over the range, less what M was when the range began

`increase()` is some percent wrong for series that come and go (and 0 for a job between two
scrapes); this is right to the quantum, because the counters of Joulebook start at a zero that is
held, keep their last value for a while, and never fall.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from joulebook.core.account import Selection

BEFORE_S = 900
"""How far back the value at the start of the range may lie: outages up to this are no error."""


def quoted(text: str) -> str:
    """A string of PromQL: what a name holds cannot end it."""
    # JSON's escapes are Go's; a lone surrogate has no place in either.
    safe = text.encode("utf-8", "replace").decode()
    return json.dumps(safe, ensure_ascii=False).replace("\x7f", "\\x7f")


def matcher(label: str, names: Iterable[str]) -> str:
    """`label="name"`, or a regular expression of literal names where there are several."""
    ordered = sorted(names)
    if len(ordered) == 1:
        return f"{label}={quoted(ordered[0])}"
    return f"{label}=~{quoted('|'.join(map(_literal, ordered)))}"


def _literal(text: str) -> str:
    # RE2's set: Python's re.escape knows more, and Go refuses what it does not know.
    return "".join(f"\\{c}" if c in r"\.+*?()|[]{}^$" else c for c in text)


def selector(metric: str, wanted: Selection) -> str:
    """A metric and its matchers."""
    shown = {name.rpartition("/")[2] if name.count("/") == 1 else name for name in wanted.workloads}
    parts = [
        matcher(label, names)
        for label, names in (
            ("experiment", wanted.experiments),
            ("user", wanted.users),
            ("account", wanted.accounts),
            ("workload", shown),
        )
        if names
    ]
    return f"{metric}{{{','.join(parts)}}}"


def exact(series: str, labels: Iterable[str], span_s: int) -> str:
    """How much a counter grew in the `span_s` before the instant that is asked about."""
    last = f"last_over_time({series}[{span_s}s])"
    before = f"last_over_time({series}[{BEFORE_S}s] offset {span_s}s)"
    return f"sum by ({', '.join(labels)}) ({last} - (({before} <= {last}) or {last} * 0))"


def over_time(function: str, series: str, span_s: int) -> str:
    """`avg`, `min`, `max` or `last` of a gauge over the range."""
    return f"{function}_over_time({series}[{span_s}s])"
