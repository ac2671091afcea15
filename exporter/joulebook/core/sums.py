"""Sums by key, as new values: the totals handed in are never changed.

Both give the totals themselves back if there is nothing to add, so that whoever compares by
identity sees that nothing changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Protocol, TypeVar


class _Amount(Protocol):
    def plus(self: _A, other: _A, /) -> _A: ...


_A = TypeVar("_A", bound=_Amount)
_K = TypeVar("_K", bound=Hashable)


def counted(
    more: Iterable[tuple[_K, int]], totals: Mapping[_K, int] | None = None
) -> Mapping[_K, int]:
    """`totals` (default: none) with integers added to them."""
    known: Mapping[_K, int] = {} if totals is None else totals
    sums: dict[_K, int] | None = None
    for key, number in more:
        if sums is None:
            sums = dict(known)
        sums[key] = sums.get(key, 0) + number
    return known if sums is None else sums


def summed(more: Iterable[tuple[_K, _A]], totals: Mapping[_K, _A] | None = None) -> Mapping[_K, _A]:
    """`totals` (default: none) with amounts added to them."""
    known: Mapping[_K, _A] = {} if totals is None else totals
    sums: dict[_K, _A] | None = None
    for key, amount in more:
        if sums is None:
            sums = dict(known)
        before = sums.get(key)
        sums[key] = amount if before is None else before.plus(amount)
    return known if sums is None else sums
