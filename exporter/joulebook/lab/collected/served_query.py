"""Read what served models produced and cost, by owner, from the collected ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from joulebook.core.money.amounts import Charge, Exact, Item
from joulebook.core.report.serving import Produced, ServedModel, ServedMonth
from joulebook.lab.collected.bills import exact, halves, wholes
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.months import after, begin_s, month_of, shown

ENERGY = ("gpu", "host")
"""Items of energy: of GPUs, and of all else that is measured of the host."""
PHASES = {Produced.PROMPT: "prefill", Produced.OUTPUT: "decode"}
"""Items of phases that were measured apart."""

_OWNER = "o.account, o.person, o.experiment"


def models(
    database: Database, span: tuple[int, int], where: str = "1 = 1", values: Sequence[object] = ()
) -> list[ServedModel]:
    """Return the models served in [from, to) by owner, where both tokens and energy are known.

    `where` chooses owners `o`.
    """
    known: dict[tuple[str, ...], dict[Produced, int]] = defaultdict(dict)
    for *who, kind, high, low in database.rows(
        f"SELECT {_OWNER}, t.model_name, t.kind, {halves('t.tokens')} FROM tokens t"  # noqa: S608
        " JOIN workloads w ON w.id = t.workload JOIN owners o ON o.id = w.owner"
        " WHERE t.quarter_s >= ? AND t.quarter_s < ? AND EXISTS (SELECT 1 FROM served s"
        f" WHERE s.workload = t.workload AND s.quarter_s = t.quarter_s) AND {where}"
        f" GROUP BY {_OWNER}, t.model_name, t.kind",
        [*span, *values],
    ):
        known[tuple(who)][Produced(kind)] = wholes((high, low))[0]
    items: dict[tuple[str, ...], _Sums] = defaultdict(_Sums)
    for *who, item, currency, idle, w1, w2, n1, n2, r1, r2 in database.rows(
        f"SELECT {_OWNER}, s.model_name, s.item, s.currency, s.idle,"  # noqa: S608
        f" {halves('s.whole', 's.nano', 's.rest')} FROM served s"
        " JOIN workloads w ON w.id = s.workload JOIN owners o ON o.id = w.owner"
        f" WHERE s.quarter_s >= ? AND s.quarter_s < ? AND {where}"
        f" GROUP BY {_OWNER}, s.model_name, s.item, s.currency, s.idle",
        [*span, *values],
    ):
        items[tuple(who)].add(item, currency, bool(idle), exact((w1, w2, n1, n2, r1, r2)))
    return [
        ServedModel(
            account=account, person=person, experiment=experiment, name=name,
            counts=known.get((account, person, experiment, name), {}),
            energy_uj=sums.energy_uj[0], charges=sums.charges[0],
            idle_uj=sums.energy_uj[1], idle_charges=sums.charges[1], phases=sums.phases(),
        )
        for (account, person, experiment, name), sums in sorted(items.items())
    ]  # fmt: skip


class _Sums:
    """The items of one model: of its work, and idle."""

    def __init__(self) -> None:
        self.energy_uj: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self.charges: tuple[dict[Charge, Exact], dict[Charge, Exact]] = ({}, {})
        self._others: dict[str, int] = {}

    def add(self, item: str, currency: str, idle: bool, amount: Exact) -> None:
        """Add the sum of one item."""
        if item in ENERGY:
            self.energy_uj[idle][item] = amount.whole
        elif item in set(Item):
            self.charges[idle][Charge(Item(item), currency)] = amount
        else:
            self._others[item] = amount.whole

    def phases(self) -> dict[Produced, tuple[int, int]]:
        """Return energy and tokens of the phases that were measured."""
        return {
            kind: (self._others[name], self._others[f"{name}_tokens"])
            for kind, name in PHASES.items()
            if name in self._others
        }


def by_month(
    database: Database, span: tuple[int, int], where: str, values: Sequence[object]
) -> Iterator[ServedMonth]:
    """Yield the models served in [from, to), month by month."""
    first, last = database.rows("SELECT min(quarter_s), max(quarter_s) FROM served")[0]
    if first is None:
        return
    month = month_of(max(first, span[0]))
    while (start_s := max(begin_s(month), span[0])) < min(last + 1, span[1]):
        until_s = min(begin_s(after(month)), span[1])
        for each in models(database, (start_s, until_s), where, values):
            yield ServedMonth(shown(month), each)
        month = after(month)
