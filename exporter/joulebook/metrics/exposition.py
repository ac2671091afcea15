"""The exposition served: rendered on request, once per snapshot.

Families become Prometheus text 0.0.4 or OpenMetrics 1.0. prometheus-client renders 1,000 series in
11 ms, this in under 1 ms: the part of a line before its value, `name{labels} `, is kept from one
scrape to the next.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from threading import Lock
from typing import NamedTuple

from joulebook.core.sanitize import clean
from joulebook.metrics.collector import Family, collect
from joulebook.metrics.dcgm import collect_dcgm
from joulebook.metrics.derived import process_stats
from joulebook.metrics.metric import Kind, Metric
from joulebook.metrics.page.page import render_page
from joulebook.metrics.snapshot import Snapshot

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Format(Enum):
    """A format of exposition; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Block(NamedTuple):
    """The sample lines of one metric, which are the same in both formats."""

    metric: Metric
    lines: str


def number(value: float) -> str:
    """Return a value, in the shortest form that reads back as the same."""
    if isinstance(value, int):
        return str(int(value))
    if math.isfinite(value):
        return repr(value).removesuffix(".0")
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def escape(value: str) -> str:
    """Return a label value, cleaned and escaped, without its quotes."""
    value = clean(value)
    return value.translate(_ESCAPES) if "\\" in value or '"' in value or "\n" in value else value


class Renderer:
    """Renders families for one node, and remembers the prefixes of the last time.

    A prefix that was not used in one rendering is forgotten. Not safe for threads.
    """

    def __init__(self, node: str, cluster: str = "") -> None:
        self._common = f'node="{escape(node)}"'
        if cluster:
            self._common = f'cluster="{escape(cluster)}",{self._common}'
        self._prefixes: dict[str, dict[tuple[str, ...], str]] = {}

    def block(self, family: Family) -> Block:
        """Return the sample lines of a family.

        Labels that differed only in what had to be cleaned or cut are one series: counters and
        other quantities that add up are summed, of the rest the last one stands.
        """
        metric = family.metric
        old = self._prefixes.get(metric.name, {})
        new: dict[tuple[str, ...], str] = {}
        lines: dict[str, float] = {}
        for labels, value in family.samples:
            prefix = old.get(labels) or self._prefix(metric, labels)
            new[labels] = prefix
            if metric.adds and prefix in lines:
                lines[prefix] += value
            else:
                lines[prefix] = value
        self._prefixes[metric.name] = new
        return Block(metric, "".join([f"{p}{number(v)}\n" for p, v in lines.items()]))

    def _prefix(self, metric: Metric, labels: tuple[str, ...]) -> str:
        pairs = [] if metric.bare else [self._common]
        pairs.extend(
            f'{name}="{escape(value)}"'
            for name, value in zip(metric.labels, labels, strict=True)
            if value or not metric.sparse
        )
        return f"{metric.name}{{{','.join(pairs)}}} " if pairs else f"{metric.name} "


def body(blocks: Iterable[Block], style: Format) -> bytes:
    """Return a whole exposition; metrics without samples are left out."""
    openmetrics = style is Format.OPENMETRICS
    parts: list[str] = []
    for metric, lines in blocks:
        if not lines:
            continue
        name, kind = metric.name, str(metric.kind)
        if openmetrics and metric.kind is Kind.COUNTER:
            # There a counter is named without its suffix, and must have one.
            if name.endswith("_total"):
                name = name.removesuffix("_total")
            else:
                kind = "unknown"
        parts.append(f"# HELP {name} {metric.help}\n# TYPE {name} {kind}\n")
        if openmetrics and metric.unit and name.endswith(f"_{metric.unit}"):
            parts.append(f"# UNIT {name} {metric.unit}\n")
        parts.append(lines)
    if openmetrics:
        parts.append("# EOF\n")
    return "".join(parts).encode("utf-8")


def negotiate(accept: str) -> Format:
    """The format for an `Accept` header: OpenMetrics 1.0 where it is liked as much as text."""
    openmetrics = text = 0.0
    for item in accept.lower().split(","):
        media, *rest = (part.strip() for part in item.split(";"))
        given = dict(part.partition("=")[::2] for part in rest)
        try:
            quality = float(given.get("q", 1))
        except ValueError:
            continue
        if media == "application/openmetrics-text" and given.get("version", "1.0.0") in {
            "0.0.1",
            "1.0.0",
        }:
            openmetrics = max(openmetrics, quality)
        elif media == "text/plain":
            text = max(text, quality)
    return Format.OPENMETRICS if openmetrics > 0 and openmetrics >= text else Format.TEXT


Check = Callable[[], tuple[bool, str]]
"""Whether everything works, and a message if not."""

DCGM, DCGM_HOSTNAME = "dcgm", "dcgm-hostname"
"""The names in `exposition.compat` that add the metrics of dcgm-exporter; the second with the label
`hostname` of its newer versions for `Hostname`."""


class Exposition:
    """The pages of one node (`Pages` of the server). Any thread may call any method.

    `on_error` is reported of a metric that cannot be rendered, once until it can be again.
    """

    def __init__(
        self,
        view: Snapshot,
        ready: Check,
        healthy: Check,
        *,
        compat: Collection[str] = (),
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.ready = ready
        self.healthy = healthy
        self._dcgm = DCGM in compat or DCGM_HOSTNAME in compat
        self._newer_hostname = DCGM_HOSTNAME in compat
        self._on_error = on_error
        self._lock = Lock()
        self._make: Callable[[], Snapshot] = lambda: view
        self._made: tuple[Callable[[], Snapshot], Snapshot] | None = None
        self._renderer = Renderer(view.node, view.cluster)
        self._errors: dict[str, int] = {}
        self._failing: frozenset[str] = frozenset()
        self._made_of: Snapshot | None = None
        self._blocks: list[Block] = []
        self._bodies: dict[Format, bytes] = {}
        self._page: tuple[Snapshot, bool, str, bytes] | None = None

    def publish(self, make: Callable[[], Snapshot]) -> None:
        """Show this view from now on; `node` and `cluster` must stay the same.

        It is made on the first request, by the requesting thread.
        """
        self._make = make

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """Return the body of `/metrics` for an `Accept` header, and its media type.

        The same bytes object for the same view, so that the server can keep what it makes of it.
        """
        style = negotiate(accept)
        with self._lock:
            view = self._view()
            if self._made_of is not view:
                self._blocks = self._render(view)
                self._bodies = {}
                self._made_of = view
            if style not in self._bodies:
                self._bodies[style] = body(self._blocks, style)
            return self._bodies[style], style.value

    def index(self) -> bytes:
        """Return the page `/` for people."""
        ready, message = self.ready()
        with self._lock:
            view = self._view()
        page = self._page
        if page is None or page[0] is not view or page[1:3] != (ready, message):
            page = (view, ready, message, render_page(view, ready, message))
            self._page = page
        return page[3]

    def _view(self) -> Snapshot:
        """Return the newest view. The lock must be held."""
        make = self._make
        if self._made is None or self._made[0] is not make:
            self._made = (make, make())
        return self._made[1]

    def _render(self, view: Snapshot) -> list[Block]:
        collected = collect(view, process_stats(), self._errors)
        failures = dict(collected.failures)
        families = collected.families
        if self._dcgm:
            try:
                families = families + collect_dcgm(view, newer_hostname=self._newer_hostname)
            except Exception as error:
                failures[DCGM] = error
        blocks: list[Block] = []
        for family in families:
            try:
                blocks.append(self._renderer.block(family))
            except Exception as error:
                failures[family.metric.name] = error
        self._tell(failures)
        return blocks

    def _tell(self, failures: Mapping[str, Exception]) -> None:
        for family, error in failures.items():
            self._errors[family] = self._errors.get(family, 0) + 1
            if family not in self._failing:
                self._on_error(family, error)
        self._failing = frozenset(failures)
