"""The PromQL that dashboards and rules are made of. Why it looks as it does: docs/dashboards.md."""

from __future__ import annotations

from collections.abc import Iterable

EXPIRED = 'experiment!="(expired)"'
"""What an experiment came to before it was forgotten passes into `(expired)`: not consumption."""

J_PER_KWH = 3_600_000

COPIES = "job, service, endpoint, replica, prometheus_replica"
"""Labels that only tell copies of a series apart: a target under two jobs, a pair of Prometheis."""

TARGET = f"{COPIES}, pod, container, namespace"
"""These, and what a new pod of a daemon changes while its counters go on from where they were. Not
`instance`: two nodes of one name are two."""


def selector(metric: str, *matchers: str) -> str:
    """`metric{matchers}`; empty matchers are left out."""
    given = ",".join(matcher for matcher in matchers if matcher)
    return f"{metric}{{{given}}}" if given else metric


def chosen(*names: str) -> str:
    """Matchers of what the variables of these names are set to, whatever characters are in it.

    A text in backquotes stands as it is. In double quotes a quote in a name would end it: by itself
    Grafana escapes what is special in regular expressions, and not the quote.
    """
    return ",".join(f"{name}=~`${{{name}:regex}}`" for name in names)


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


def one_of(labels: str, expression: str, of: str = "max") -> str:
    """The highest (or lowest, `of="min"`) of the series that differ in these labels alone."""
    return f"{of} without ({labels}) ({expression})"


def risen(
    counter: str, window: str = "$__range", *, offset: str = "", start: str | None = None
) -> str:
    """By how much counters rose in a window, copies of a series counted once.

    What was not there at its start (as experiments are that nobody used for a day) counts from its
    first value: VictoriaMetrics' `increase` would count a small one from 0, and Prometheus' would
    go on beyond both of its ends.
    """
    at = f" offset {offset}" if offset else ""
    since = f" offset {window}" if start is None else start
    rise = (
        f"(increase({counter}[{window}]{at}) and last_over_time({counter}[15m]{since}))\n"
        f"or (last_over_time({counter}[{window}]{at}) - min_over_time({counter}[{window}]{at}))"
    )
    return one_of(COPIES, rise)


def rate(counter: str) -> str:
    """How fast counters rise, at each step of a course."""
    return one_of(COPIES, f"rate({counter}[$__rate_interval])")


def increased(counter: str, window: str) -> str:
    """By how much counters rose in a window of a rule."""
    return one_of(COPIES, f"increase({counter}[{window}])")


def last_of(counter: str, window: str, offset: str = "") -> str:
    """The last value of a counter in a window, whichever pod showed it."""
    at = f" offset {offset}" if offset else ""
    return one_of(TARGET, f"last_over_time({counter}[{window}]{at})")


BRIDGED = "1d"
"""How long nothing may be scraped before an alert no longer knows what was there before."""


def increment(counter: str, interval: str, window: str, bridged: str) -> str:
    """By how much a counter rose in `interval`, or since it was last seen if that is longer ago.

    A failed scrape leaves a stale marker, so `counter offset 5m` is absent after it; the last
    value in `bridged` before is not, and what was not scraped no rule has recorded. A series that
    was not there before counts from its first value in the window (counters are shown at where they
    begin until they have been scraped), and so does one that was reset.
    """
    last = last_of(counter, window)
    before = last_of(counter, bridged, interval)
    first = one_of(TARGET, f"min_over_time({counter}[{window}])", "min")
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


_ANY_TARGET = f"{TARGET}, instance"


def exact(counter: str) -> str:
    """By how much a counter that begins at 0 rose in the range: its last value less that at the
    beginning of the range. Jobs of a second between two scrapes count.

    One that was not there at the beginning began in the range, at 0; unless it was there in the
    half day before, and scrapes failed at the beginning, or its node was not (Prometheus is new):
    then it counts from the first after that. One that fell counts to where it fell from, and from 0
    again.
    """

    def seen(function: str, window: str = "$__range", offset: str = "", of: str = "max") -> str:
        return one_of(_ANY_TARGET, f"{function}({counter}[{window}]{offset})", of)

    last, top = seen("last_over_time"), seen("max_over_time")
    before = seen("last_over_time", "15m", " offset $__range")
    first = seen("min_over_time", of="min")
    known = seen("count_over_time", "12h", " offset $__range")
    node = "last_over_time(joulebook_build_info[12h] offset $__range)"
    return f"""\
{last}
+ ({top} > {last} or {last} * 0)
- (
  ({before} <= {top})
  or ({first} and {known})
  or ({first} unless on (cluster, node) {node})
  or {last} * 0
)"""


def ratio(part: str, of: str) -> str:
    """One figure as a share of another, with the same labels."""
    return f"({part})\n/\n({of})"


def whole(rule: str, span: str) -> str:
    """The sum of a rule over a span, each interval once.

    Prometheus 2 counts a sample at the very beginning of a range too: one interval too many. A
    millisecond forward leaves it out, and changes nothing for Prometheus 3 and VictoriaMetrics.
    """
    return one_of("replica, prometheus_replica", f"sum_over_time({rule}[{span}] offset -1ms)")
