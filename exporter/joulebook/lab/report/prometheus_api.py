"""A client for Prometheus's query API, bounded in time and size.

https://prometheus.io/docs/prometheus/latest/querying/api/ - VictoriaMetrics, Thanos and Mimir are
compatible, and each marks a partial response in its own way: `warnings`, `infos`, `isPartial`. None
of these is lost. Redirects are not followed, so a token is sent nowhere else.

The queries are exact over any range: last(M) over the range, less what M was when it began.
`increase()` is some percent wrong for series that come and go.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from joulebook import log
from joulebook.core.report.dataset import Selection
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, HttpFailure, SourceError
from joulebook.http_client import HttpAnswer, Web, basic, trusting
from joulebook.untrusted_files import read_secret, shown_path

BEFORE_S = 900
"""How far back the value at the start of the range may lie: outages up to this are no error."""


def quoted(text: str) -> str:
    """Return a string of PromQL: what a name holds cannot end it."""
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


def selector(metric: str, wanted: Selection, nodes: Iterable[str] = ()) -> str:
    """Return a metric and its matchers."""
    shown = {name.rpartition("/")[2] if name.count("/") == 1 else name for name in wanted.workloads}
    parts = [
        matcher(label, names)
        for label, names in (
            ("experiment", wanted.experiments),
            ("user", wanted.users),
            ("account", wanted.accounts),
            ("workload", shown),
            ("cluster", wanted.clusters),
            ("node", tuple(nodes)),
        )
        if names
    ]
    return f"{metric}{{{','.join(parts)}}}"


class Late(NamedTuple):
    """Nodes that the storage has only from some time in the range on.

    Attributes:
        nodes: Their names.
        offset_s: How long before the end of the range the last of them had come.
        window_s: How far back from there the first sample of all of them lies at most.

    """

    nodes: frozenset[str]
    offset_s: int
    window_s: int


def exact(
    metric: str,
    wanted: Selection,
    labels: Iterable[str],
    span_s: int,
    late: Late | None = None,
) -> str:
    """Return the query for how much a counter grew in the `span_s` before the instant asked about.

    `labels` are all that tell its series apart. One that is stored more than once, since it was
    scraped by two jobs, by two replicas or at two addresses one after the other, is one counter: it
    never falls, so its greatest value counts. What a late node had counted when it was first seen
    does not count: nobody knows when it was consumed.
    """
    by = f"by ({', '.join(labels)})"
    series = selector(metric, wanted)
    last = f"max {by} (last_over_time({series}[{span_s}s]))"
    before = f"max {by} (last_over_time({series}[{BEFORE_S}s] offset {span_s}s))"
    if late is not None:
        of_late = selector(metric, wanted, late.nodes)
        first = f"min_over_time({of_late}[{late.window_s}s] offset {late.offset_s}s)"
        before = f"({before} or min {by} ({first}))"
    return f"{last} - (({before} <= {last}) or {last} * 0)"


def over_time(function: str, series: str, span_s: int) -> str:
    """`avg`, `min`, `max` or `last` of a gauge over the range."""
    return f"{function}_over_time({series}[{span_s}s])"


MOST_BYTES = 256 << 20
"""630,000 series are 200 MB of JSON: larger labs must narrow the selection."""

_MOST_TOKEN = 4096


class Access(NamedTuple):
    """How to get in: headers to send (`X-Scope-OrgID` of Mimir), a token or `user:password`."""

    headers: Mapping[str, str] = {}
    token_file: Path | None = None
    ca: Path | None = None
    insecure: bool = False
    timeout_s: float = 60.0


class Sample(NamedTuple):
    """One series of an instant vector."""

    labels: Mapping[str, str]
    value: float


class RawSeries(NamedTuple):
    """One series with its samples as they were scraped: UTC seconds and value, in order."""

    labels: Mapping[str, str]
    samples: list[tuple[float, float]]


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str] = (0.0, "")
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct):
    result: list[_Series] = []


class _Said(msgspec.Struct, rename={"is_partial": "isPartial"}):
    status: str
    error: str = ""
    warnings: list[str] | None = None
    infos: list[str] | None = None
    is_partial: bool = False


class _Answer(_Said):
    data: _Data = msgspec.field(default_factory=_Data)


class _LabelSets(_Said):
    data: list[dict[str, str]] = []


_A = TypeVar("_A", bound=_Said)
_ANSWER = msgspec.json.Decoder(_Answer)
_LABELS = msgspec.json.Decoder(_LabelSets)


class PrometheusApi:
    """One server. Not for several threads."""

    def __init__(self, url: str, access: Access) -> None:
        """`url` is the base address. Raises `ConfigError` for one that cannot be used."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise ConfigError(f"--prometheus {log.clean(url)}: expected http(s)://host:port/path")
        if "@" in parts.netloc:
            raise ConfigError("--prometheus: expected no password in it; use --token-file")
        self.where = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        self._access = access
        self._headers = {**access.headers, **_authorization(access.token_file)}
        self._web = Web(
            timeout_s=access.timeout_s,
            deadline_s=access.timeout_s,
            max_bytes=MOST_BYTES,
            tls=trusting(access.ca, "--ca", insecure=access.insecure),
            proxied=False,
            hosts=1,
        )
        self.warnings: dict[str, None] = {}

    def instant(self, query: str, at_s: int) -> list[Sample]:
        """Return the instant vector of a query. Raises `SourceError`; warnings are kept aside."""
        return [Sample(row.metric, self._number(row.value[1])) for row in self._rows(query, at_s)]

    def raw(self, query: str, at_s: int) -> list[RawSeries]:
        """Return the samples of a range that are numbers from 0. Raises `SourceError`."""
        found = []
        for row in self._rows(query, at_s):
            samples = [(t_s, value) for t_s, text in row.values if _is_number(value := float(text))]
            found.append(RawSeries(row.metric, samples))
        return found

    def series(self, match: str, since_s: int, until_s: int) -> list[dict[str, str]]:
        """Return the labels of the series that have samples in a time. Raises `SourceError`."""
        fields = {"match[]": match, "start": str(since_s), "end": str(until_s)}
        return self._answer("series", fields, _LABELS).data

    def _rows(self, query: str, at_s: int) -> list[_Series]:
        fields = {"query": query, "time": str(at_s), "timeout": f"{self._access.timeout_s:g}s"}
        return self._answer("query", fields, _ANSWER).data.result

    def _answer(
        self, path: str, fields: Mapping[str, str], decoder: msgspec.json.Decoder[_A]
    ) -> _A:
        status, body = self._post(f"{self.where}/api/v1/{path}", fields)
        try:
            answer = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            hint = f"it returned status {status}" if status != 200 else one_line(str(error))
            raise SourceError(f"{self.where}: not an answer of Prometheus's API: {hint}") from None
        if status != 200 or answer.status != "success":
            said = one_line(answer.error, 500) or f"status {status}"
            raise SourceError(f"{self.where}: {said}")
        for text in [*(answer.warnings or ()), *(answer.infos or ())]:
            self.warnings[one_line(text, 500)] = None
        if answer.is_partial:
            self.warnings["the answer is partial: a part of the storage did not reply"] = None
        return answer

    def _number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SourceError(f"{self.where}: {one_line(text, 50)!r} is not the value of a counter")
        return value

    def _post(self, url: str, fields: Mapping[str, str]) -> HttpAnswer:
        try:
            answer = self._web.ask(url, fields, self._headers, post=True)
        except HttpFailure as error:
            said = {
                "timeout": f"timed out after {self._access.timeout_s:g} s (--timeout)",
                "too_large": f"{error}; narrow it with --experiment, --since, --until",
            }.get(error.reason, str(error))
            raise SourceError(f"{self.where}: {said}") from None
        if 300 <= answer.status < 400:
            raise SourceError(f"{self.where}: redirects; not followed, give the new URL")
        return answer


def _is_number(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _authorization(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        token = read_secret(file).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not ASCII text"
        raise ConfigError(f"--token-file {shown_path(file)}: cannot be read: {why}") from None
    # It goes into a header: a line break in it would be another header.
    if not token or len(token) > _MOST_TOKEN or not token.isprintable():
        raise ConfigError(f"--token-file {file}: expected a token or user:password, one line")
    if ":" in token:
        return basic(token)
    return {"Authorization": f"Bearer {token}"}
