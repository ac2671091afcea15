"""Validate a page before it is written: a wrong node must not spoil the ledgers of others.

A page is rejected as a whole, with the target and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.export import (
    MAX_ROWS,
    OLDEST,
    VERSION,
    ChargeRow,
    GapRow,
    PostingRow,
    PostingsPage,
    RateRow,
)
from joulebook.core.money.amounts import Item, is_currency
from joulebook.core.money.rates import NANO, PER_KWH, Quality
from joulebook.errors import InputError

_MOST = (1 << 63) - 1
_TEXT = 1024
_METERS = 10_000
_EXTRAS = 64
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def check(page: PostingsPage, since: int, ledger_id: str, target: str) -> None:
    """Raises `InputError` for an answer to (`since`, `ledger_id`) that cannot be true."""
    for reason, what in _problems(page, since, ledger_id):
        raise InputError(f"{target}: {what}; the page was rejected", reason=reason)


def _problems(page: PostingsPage, since: int, ledger_id: str) -> Iterator[tuple[str, str]]:
    if not OLDEST <= page.v <= VERSION:
        yield (
            "version",
            f"has page version {page.v}, this collector supports {OLDEST} to {VERSION}: upgrade "
            f"{'the collector first' if page.v > VERSION else 'the node'}",
        )
    if not re.fullmatch(r"[0-9a-f]{16,64}", page.ledger_id):
        yield "garbage", f"ledger_id {page.ledger_id[:70]!r}: expected 16 to 64 hexadecimal digits"
    if not page.node or len(page.node) > 253 or len(page.cluster) > 253:
        yield "garbage", "names of node and cluster: expected 1 (0) to 253 characters"
    if any(
        not re.fullmatch(r"[0-9a-f]{0,64}", each) for each in (page.since_writer, page.next_writer)
    ):
        yield "garbage", "since_writer, next_writer: expected up to 64 hexadecimal digits"
    if page.since != (since if ledger_id in {"", page.ledger_id} else 0):
        yield "order", f"returned what follows {page.since}, not {since}"
    if page.last < page.since and ledger_id == page.ledger_id:
        yield (
            "went_back",
            f"its ledger has gone back from number {since} to {page.last} (restored from a "
            "copy?): move it away on the node to start a new one",
        )
    if not page.since <= page.next <= page.last:
        yield "order", f"continues at {page.next}, which is not in {page.since} to {page.last}"
    if page.next == page.since and page.last > page.next:
        yield "order", f"does not advance from {page.next}, though there is more up to {page.last}"
    if page.rows > 3 * MAX_ROWS or len(page.meters) > _METERS:
        yield "too_large", f"{page.rows} rows and {len(page.meters)} meters in one page"
    yield from _numbers(page)
    yield from _texts(page)
    yield from _kinds(page)
    yield from _values(page)


def _numbers(page: PostingsPage) -> Iterator[tuple[str, str]]:
    every: tuple[tuple[PostingRow | ChargeRow | RateRow | GapRow, ...], ...] = (
        page.postings,
        page.charges,
        page.rates,
        page.gaps,
    )
    for rows in every:
        last = page.since
        for row in rows:
            if not last < row.seq <= page.next:
                yield (
                    "order",
                    f"row number {row.seq} after {last} in a page up to {page.next}: not ascending",
                )
            last = row.seq
    meters = {meter.id for meter in page.meters}
    workloads = {workload.id for workload in page.workloads}
    if len(meters) < len(page.meters) or len(workloads) < len(page.workloads) or 0 in workloads:
        yield "garbage", "two meters or workloads with the same number"
    named = {row.meter_id for row in page.postings} | {row.meter_id for row in page.gaps}
    if not named <= meters:
        yield "garbage", "a posting or gap of an unknown meter"
    for whose in _whose(page):
        if (whose[0] == 0) != bool(whose[1]):
            yield "garbage", "a row with both a workload and a remainder, or with neither"
        if whose[0] and whose[0] not in workloads:
            yield "garbage", "a row of an unknown workload"


def _whose(page: PostingsPage) -> set[tuple[int, str]]:
    return {(row.workload_id, row.remainder) for row in page.postings} | {
        (row.workload_id, row.remainder) for row in page.charges
    }


def _texts(page: PostingsPage) -> Iterator[tuple[str, str]]:
    for text in _strings(page):
        if len(text) > _TEXT or _UNFIT.search(text):
            yield "garbage", f"text {text[:40]!r}: control characters, or more than {_TEXT}"
    if any(len(row.extra) > _EXTRAS for row in page.workloads):
        yield "garbage", f"a workload with more than {_EXTRAS} extras"


def _strings(page: PostingsPage) -> Iterator[str]:
    yield from (page.node, page.cluster)
    for meter in page.meters:
        yield from (meter.name, meter.model)
    for row in page.workloads:
        yield from (row.scheduler, row.workload, row.display, row.name, row.user, row.account)
        yield from (row.experiment, row.evidence, row.stage, row.outcome)
        yield from (text for pair in row.extra.items() for text in pair)
    yield from (row.evidence for row in page.postings)
    yield from (row.currency for row in page.charges)
    yield from (row.currency for row in page.charged)
    for rate in page.rates:
        yield from (rate.quantity, rate.unit, rate.source)
    yield from (gap.reason for gap in page.gaps)


def _kinds(page: PostingsPage) -> Iterator[tuple[str, str]]:
    yield from _unknown("component", Component, (row.component for row in page.meters))
    yield from _unknown("method", Method, (row.method for row in page.postings))
    yield from _unknown("remainder", Remainder, {name for _, name in _whose(page)} - {""})
    items = {row.item for row in page.charges} | {row.item for row in page.charged}
    yield from _unknown("item", Item, items)
    if Item.IDLE_UNKNOWN in items:
        yield "garbage", f"item {Item.IDLE_UNKNOWN}: no node books it"
    currencies = {row.currency for row in page.charges} | {row.currency for row in page.charged}
    for currency in currencies - {""}:
        if not is_currency(currency):
            yield "garbage", f"currency {currency[:20]!r}: expected three letters"
    yield from _unknown("quality", Quality, (row.quality for row in page.rates))


def _unknown(what: str, kind: type[StrEnum], values: Iterable[str]) -> Iterator[tuple[str, str]]:
    for value in set(values) - {str(each) for each in kind}:
        yield (
            "version",
            f"{what} {value[:40]!r} is unknown here: is the node's Joulebook newer than the "
            "collector's?",
        )


def _values(page: PostingsPage) -> Iterator[tuple[str, str]]:
    quarters = {row.quarter_s for row in page.postings}
    quarters |= {row.quarter_s for row in page.charges} | {row.quarter_s for row in page.rates}
    for quarter_s in quarters:
        if quarter_s % 900 or not -_MOST <= quarter_s <= _MOST:
            yield "absurd", f"quarter hour {quarter_s}: not on a quarter hour"
    for row in page.postings:
        if not (
            0 <= row.idle_uj <= row.energy_uj <= _MOST
            and 0 <= row.idle_ns <= row.held_ns <= _MOST
            and -_MOST <= row.calibration_uj <= _MOST
            and 0 <= row.tensor_ns <= row.tensor_known_ns <= row.held_ns
        ):
            yield (
                "absurd",
                f"a posting of {row.energy_uj} uJ ({row.idle_uj} idle, {row.calibration_uj} by "
                f"calibration), {row.held_ns} ns ({row.idle_ns} idle)",
            )
    booked = [(row.whole, row.nano, row.rest) for row in page.charges]
    for whole, nano, rest in (*booked, *(a for c in page.charged for a in (c.booked, c.expired))):
        if not (0 <= whole <= _MOST and 0 <= nano < NANO and 0 <= rest < PER_KWH):
            yield "absurd", f"an amount of {whole}, {nano}, {rest}"
    if any(not 0 <= value <= _MOST for value in _integers(page)):
        yield "absurd", "a number below zero, or of more than 63 bits"
    # A clock that was wrong for a moment may have said any time.
    if any(not -_MOST <= value <= _MOST for value in _instants(page)):
        yield "absurd", "a time of more than 63 bits"


def _integers(page: PostingsPage) -> Iterator[int]:
    yield page.created_s
    for meter in page.meters:
        yield from (meter.id, meter.booked_uj, meter.expired_uj)
    for rate in page.rates:
        yield from (abs(rate.value), rate.energy_uj, rate.held_ns)
    for workload in page.workloads:
        yield from (workload.gpu_count, workload.start, workload.scheduler_start_s)


def _instants(page: PostingsPage) -> Iterator[int]:
    yield page.booked_to_s
    for gap in page.gaps:
        yield from (gap.t0_utc_ns, gap.t1_utc_ns)
    for workload in page.workloads:
        yield from (workload.started_utc_ns or 0, workload.ended_utc_ns or 0)
