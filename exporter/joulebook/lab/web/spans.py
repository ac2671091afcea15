"""Which months, and whose, a page shows: what its links and forms say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from joulebook.core.evidence import ZERO
from joulebook.core.money.amounts import add
from joulebook.errors import InputError
from joulebook.lab.collected import months
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.web.present import day
from joulebook.lab.web.view import OwnerUsage

_MOST = 36
"""The most months of one page."""


def link(path: str, query: Mapping[str, str]) -> str:
    """Return a link, without what is empty."""
    asked = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(asked)}" if asked else path


class MonthSpan(NamedTuple):
    """Months from the first to the last one."""

    first: int
    last: int

    @classmethod
    def parse(cls, first: str, last: str, now: int) -> MonthSpan:
        """Read months as they are in a query; none: this one. Raises `InputError`."""
        begin = months.parsed(first) if first else months.parsed(last) if last else now
        span = cls(begin, months.parsed(last) if last else begin)
        if not 0 < span.length <= _MOST:
            raise InputError(
                f"until {months.shown(span.last)}: expected a month from {months.shown(begin)}, "
                f"at most {_MOST} in all",
                reason="day",
            )
        return span

    @property
    def length(self) -> int:
        """Return how many months these are."""
        first, last = (month // 100 * 12 + month % 100 for month in self)
        return last - first + 1

    def moved(self, months_: int) -> MonthSpan:
        """Return as many months, so many months later (or earlier)."""
        return MonthSpan(*(_moved(month, months_) for month in self))

    @property
    def earlier(self) -> MonthSpan:
        """Return as many months before it."""
        return self.moved(-self.length)

    @property
    def later(self) -> MonthSpan:
        """Return as many months after it."""
        return self.moved(self.length)

    @property
    def every(self) -> list[int]:
        """Return all of its months."""
        return [_moved(self.first, n) for n in range(self.length)]

    @property
    def shown(self) -> str:
        """Return it in words."""
        first, last = map(months.shown, self)
        return first if first == last else f"{first} to {last}"

    @property
    def query(self) -> dict[str, str]:
        """Return it as it is in a query."""
        first, last = map(months.shown, self)
        return {"month": first} if first == last else {"month": first, "until": last}

    @property
    def days(self) -> dict[str, str]:
        """Return its first day and the one after its last, as in a query for jobs."""
        return {"since": day(self.begin_s), "until": day(self.end_s)}

    @property
    def begin_s(self) -> int:
        """Return the UTC second at which it begins."""
        return months.begin_s(self.first)

    @property
    def end_s(self) -> int:
        """Return the UTC second at which it ends."""
        return months.begin_s(months.after(self.last))


class OwnerFilter(NamedTuple):
    """Whose usage is asked for; an empty name selects all."""

    user: str = ""
    account: str = ""

    def of(self, lines: Iterable[OwnerUsage]) -> list[OwnerUsage]:
        """Return the lines that are asked for; remainders are nobody's."""
        return [
            line
            for line in lines
            if line.owner.person == (self.user or line.owner.person)
            and line.owner.account == (self.account or line.owner.account)
            and not (any(self) and line.owner.remainder)
        ]

    @property
    def query(self) -> dict[str, str]:
        """Return it as it is in a query."""
        return {name: value for name, value in self._asdict().items() if value}


def added_up(several: Iterable[Sequence[OwnerUsage]]) -> list[OwnerUsage]:
    """Return the sums of each owner's lines."""
    sums: dict[BilledOwner, OwnerUsage] = {}
    for line in (line for lines in several for line in lines):
        before = sums.get(line.owner)
        if before is None:
            sums[line.owner] = line
            continue
        used = dict(before.by_component)
        for name, amount in line.by_component.items():
            used[name] = used.get(name, ZERO).plus(amount)
        charges = add(before.charges, line.charges)
        sums[line.owner] = OwnerUsage(line.owner, by_component=used, charges=charges)
    return [sums[owner] for owner in sorted(sums)]


def _moved(month: int, by: int) -> int:
    number = month // 100 * 12 + month % 100 - 1 + by
    return number // 12 * 100 + number % 12 + 1
