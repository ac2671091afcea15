"""What the collected ledger has by quarter hour, or by day where a month is compacted to days.

Callers ask here, and for hours where they need them: those come from the ledger or from an export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from joulebook.core.money.amounts import RateUsed
from joulebook.core.money.rates import Quality
from joulebook.core.report.dataset import UsedRate
from joulebook.lab.collected import archive, compact
from joulebook.lab.collected.database import Database, Row, one_by_some
from joulebook.lab.collected.months import DAY_S, after, begin_s, month_of

_DAYS = """
SELECT d.ledger, d.quarter_s, d.used, l.node FROM day_rates d JOIN ledgers l ON l.id = d.ledger
WHERE d.quarter_s >= ? AND d.quarter_s < ?
"""

_DIGEST = msgspec.json.Decoder(list[tuple[int, list[tuple[int, int, int]]]])

_AT = 2
"""Where a row has its quarter hour; its ledger is first."""


class QuarterHours:
    """The rows of quarter hours in [from, to) of some workloads (`None`: all).

    `hourly` says what needs quarter hours (`--rates`, a picture of power); for what has none,
    days of compacted months will do.
    """

    def __init__(
        self,
        database: Database,
        span: tuple[int, int],
        workloads: Sequence[int] | None = None,
        hourly: str = "",
    ) -> None:
        self._database, self._span, self._workloads = database, span, workloads
        days = [
            month
            for month in compact.months(database)
            if begin_s(month) < span[1] and begin_s(after(month)) > span[0]
        ]
        for name, edge_s in zip(("--since", "--until"), span, strict=True):
            if edge_s % DAY_S and month_of(edge_s) in days:
                when = datetime.fromtimestamp(edge_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
                hourly = hourly or f"{name} {when} is not the begin of a day"
        self._months, self._why = (days if hourly else []), hourly
        of_months = "SELECT ledger, month FROM compacted WHERE month IN (*)"
        self._gone = {*one_by_some(database, of_months, [], self._months)}

    def postings(self) -> Iterator[Row]:
        """Yield workload, quarter hour, amounts, node, meter, remainder, method and evidence."""
        return self._both("postings", "p.workload")

    def charges(self) -> Iterator[Row]:
        """Yield workload, quarter hour, exact amount, node, remainder, item and currency."""
        return self._both("charges", "c.workload")

    def rates(self, places: Iterable[tuple[str, int]]) -> Iterator[UsedRate]:
        """Yield the rates at those nodes and quarter hours."""
        sums: dict[tuple[str, RateUsed], tuple[int, int]] = defaultdict(lambda: (0, 0))
        wanted = {*places}
        for row in (*self._of_nodes(wanted), *self._of_days()):
            quarter_s, value, energy_uj, held_ns, node, quantity, unit, source, quality = row
            used = RateUsed(quarter_s, quantity, value, unit, source, Quality(quality))
            if (node, quarter_s) in wanted:
                before = sums[node, used]
                sums[node, used] = (before[0] + energy_uj, before[1] + held_ns)
        for (node, used), amounts in sorted(sums.items()):
            yield UsedRate(used, *amounts, node)

    def _both(self, name: str, column: str) -> Iterator[Row]:
        """Yield rows without their ledger, those that are gone here from their export."""
        for row in self._here(archive.SQL[name], column):
            if not self._is_gone(row):
                yield row[1:]
        for month in self._months:
            yield from self._exported(month, name)

    def _exported(self, month: int, name: str) -> Iterator[Row]:
        for row in archive.quarters(self._database, month, name, self._workloads, self._why):
            if self._span[0] <= row[_AT if name != "rates" else 1] < self._span[1]:
                yield row[1:]

    def _here(self, sql: str, column: str) -> Iterable[Row]:
        if self._workloads is None:
            return self._database.rows(sql, self._span)
        return one_by_some(
            self._database, f"{sql} AND {column} IN (*)", self._span, self._workloads
        )

    def _is_gone(self, row: Row, at: int = _AT) -> bool:
        return bool(self._gone) and (row[0], month_of(row[at])) in self._gone

    def _of_nodes(self, places: set[tuple[str, int]]) -> Iterator[Row]:
        """Yield the rates of nodes, whoever was charged."""
        if self._workloads is None:
            found: Iterable[Row] = self._database.rows(archive.SQL["rates"], self._span)
        else:
            of_node: dict[str, list[int]] = defaultdict(list)
            for node, quarter_s in sorted(places):
                of_node[node].append(quarter_s)
            # Of a whole lab there are many: each node's own quarter hours.
            found = (
                row
                for node, quarters in of_node.items()
                for row in one_by_some(
                    self._database,
                    f"{archive.SQL['rates']} AND l.node = ? AND u.quarter_s IN (*)",
                    [*self._span, node],
                    quarters,
                )
            )
        for row in found:
            if not self._is_gone(row, 1):
                yield row[1:]
        for month in self._months:
            yield from self._exported(month, "rates")

    def _of_days(self) -> Iterator[Row]:
        """Yield what the workloads themselves were charged at on days of compacted months."""
        days = [row for row in self._here(_DAYS, "d.workload") if not self._is_gone(row, 1)]
        digests = [_DIGEST.decode(used) for _, _, used, _ in days]
        numbers = sorted({number for digest in digests for number, _ in digest})
        named = {
            number: names
            for number, *names in one_by_some(
                self._database,
                "SELECT id, quantity, unit, source, quality FROM rates WHERE id IN (*)",
                [],
                numbers,
            )
        }
        for (_, quarter_s, _, node), digest in zip(days, digests, strict=True):
            for number, values in digest:
                for value in values:
                    yield (quarter_s, *value, node, *named[number])
