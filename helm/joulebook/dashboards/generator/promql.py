"""The PromQL that dashboards and rules are made of. Why it looks as it does: docs/dashboards.md."""

from __future__ import annotations

from collections.abc import Iterable

EXPIRED = 'experiment!="(expired)"'
"""What an experiment came to before it was forgotten passes into `(expired)`: not consumption."""

J_PER_KWH = 3_600_000

TARGET = "instance, job, pod, namespace, container, endpoint, service"
"""Labels that a scrape target may add. On Kubernetes they change with every new pod of the daemon,
while the counter goes on from where it was: without them it is one series before and after."""


def selector(metric: str, *matchers: str) -> str:
    """`metric{matchers}`; empty matchers are left out."""
    given = ",".join(matcher for matcher in matchers if matcher)
    return f"{metric}{{{given}}}" if given else metric


def indented(text: str, spaces: int = 2) -> str:
    """The lines of a text, moved to the right."""
    return "\n".join(" " * spaces + line for line in text.splitlines())


def by(labels: str | Iterable[str], expression: str) -> str:
    """The sum by labels (`"a, b"` or several); without any, the sum of all."""
    names = labels if isinstance(labels, str) else ", ".join(labels)
    head = f"sum by ({names})" if names else "sum"
    if "\n" in expression:
        return f"{head} (\n{indented(expression)}\n)"
    return f"{head} ({expression})"


def _outer(of: str, inner: str) -> str:
    """The highest (`max`) or lowest (`min`) of what several targets showed of one counter."""
    return f"{of} without ({TARGET}) ({inner})"


def last_of(counter: str, window: str, offset: str = "") -> str:
    """The last value of a counter in a window, whichever target showed it."""
    at = f" offset {offset}" if offset else ""
    return _outer("max", f"last_over_time({counter}[{window}]{at})")


def increment(counter: str, interval: str, window: str) -> str:
    """By how much a counter rose in `interval`, when scrapes may fail for `window` - `interval`.

    A failed scrape leaves a stale marker, so `counter offset 5m` is absent after it; the last
    value of a window is not. What was missed is made up for by the next scrape. A series that was
    not there before counts from its first value in the window (counters are shown at where they
    begin until they have been scraped), and so does one that was reset.
    """
    last = last_of(counter, window)
    before = last_of(counter, window, interval)
    first = _outer("min", f"min_over_time({counter}[{window}])")
    return f"""\
{last}
- (
  ({before}
    <= {last})
  or {first}
)"""


def net(cost: str, credit: str) -> str:
    """Cost less what was earned while the price was below zero, of the kind `electricity`.

    Both sides keep series of their own (`sign`), so that they can be summed in one go, and neither
    has to exist.
    """
    return f"""\
(
{indented(cost)}
)
or
label_replace(
  label_replace(
    0 - (
{indented(credit, 6)}
    ),
    "kind", "electricity", "", ""
  ),
  "sign", "-", "", ""
)"""


def exact(counter: str) -> str:
    """By how much a counter that begins at 0 rose in the range: its last value less that at the
    beginning of the range, if it was there by then. Jobs of a second between two scrapes count.
    """
    last = last_of(counter, "$__range")
    before = last_of(counter, "15m", "$__range")
    return f"{last}\n- (({before} <= {last}) or {last} * 0)"


def ratio(part: str, of: str) -> str:
    """One figure as a share of another, with the same labels."""
    return f"({part})\n/\n({of})"


def whole(rule: str, span: str) -> str:
    """The sum of a rule over a span, each interval once.

    Prometheus 2 counts a sample at the very beginning of a range too: one interval too many. A
    millisecond forward leaves it out, and changes nothing for Prometheus 3 and VictoriaMetrics.
    """
    return f"sum_over_time({rule}[{span}] offset -1ms)"
