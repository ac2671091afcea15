"""What a served model produced, and what its quarter hours cost.

A server counts tokens from its own start: `increase` says how many two readings are apart, and
`by_quarter` in which quarter hours they count. `divided` splits what a workload was booked for a
quarter hour among the models that it served then, and sets idle apart. Everything is a whole
number, and the parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.attribution.gpu import apportion
from joulebook.core.money.amounts import Charges

QUARTER_S = 900
LONGEST_S = 86_400
"""Two readings further apart than this say nothing about any of the quarter hours in between."""
FRESH_S = 3600
"""A server that started within this is counted from its start, though it was never read before."""

MOST_PER_S = 10**8
"""No server counts faster: an increase above it is an error or a lie, and nothing is known."""


class Produced(StrEnum):
    """What a server counts."""

    PROMPT = "prompt"
    OUTPUT = "output"
    REQUESTS = "requests"


class CounterReading(NamedTuple):
    """A counter as it was read.

    Attributes:
        value: What it had counted.
        read_s: When it was read (UTC seconds).
        started_s: When its process started (UTC seconds); 0: not known.

    """

    value: int
    read_s: int
    started_s: int = 0


class Increase(NamedTuple):
    """So many, counted from one time to another (UTC seconds)."""

    amount: int
    from_s: int
    to_s: int


def increase(
    before: CounterReading | None, now: CounterReading, looked_s: int = 0
) -> Increase | None:
    """Return what a counter counted since; `None`: that is not known.

    `looked_s` is when its server was last read without this counter (0: never): a model that is
    first used appears then.
    """
    from_s = looked_s if before is None else before.read_s
    restarted = before is not None and (
        now.value < before.value or 0 < before.started_s < now.started_s - 1
    )
    if before is None and not from_s and now.started_s >= now.read_s - FRESH_S:
        from_s = now.started_s
    if not from_s or not from_s <= now.read_s <= from_s + LONGEST_S:
        return None
    amount = now.value
    if before is None or restarted:
        # A server counts from 0; what it counted in its last moments before a restart is lost.
        from_s = min(max(from_s, now.started_s), now.read_s)
    else:
        amount -= before.value
    longest_s = max(now.read_s - from_s, 1)
    return Increase(amount, from_s, now.read_s) if amount <= MOST_PER_S * longest_s else None


def by_quarter(found: Increase) -> dict[int, int]:
    """Return the count of each quarter hour (UTC start), evenly over the time."""
    first = found.from_s // QUARTER_S * QUARTER_S
    quarters = range(first, max(found.to_s, found.from_s + 1), QUARTER_S)
    seconds = [
        min(quarter_s + QUARTER_S, found.to_s) - max(quarter_s, found.from_s)
        for quarter_s in quarters
    ]
    if not any(seconds):
        seconds = [1]
    return dict(zip(quarters, apportion(found.amount, seconds, found.to_s), strict=True))


class BookedItem(NamedTuple):
    """What a workload was booked for a quarter hour, in any unit: all of it, and what was idle."""

    whole: int
    idle: int = 0


_Item = TypeVar("_Item")


class ModelShare(NamedTuple):
    """The part of one model: what its work took, and what it took while it had none."""

    active: int
    idle: int


Counts = Mapping[Produced, int]
"""What a model produced in a quarter hour; what its server does not count is absent."""


def divided(
    booked: Mapping[_Item, BookedItem], models: Mapping[str, Counts], salt: int = 0
) -> dict[str, dict[_Item, ModelShare]]:
    """Return the share of each model by item; over all models, active and idle are the whole.

    Models of one server share its work by their tokens (where it counts none, by requests): the
    ledger knows no more of one process. Where nothing was produced, everything was idle.
    """
    names = sorted(models)
    made = [_work(models[name]) for name in names]
    weights = made if any(made) else [1] * len(names)
    shares: dict[str, dict[_Item, ModelShare]] = {name: {} for name in names}
    for item, amount in booked.items():
        idle = amount.idle if any(made) else amount.whole
        active = apportion(amount.whole - idle, weights, salt)
        idling = apportion(idle, weights, salt)
        for name, *share in zip(names, active, idling, strict=True):
            shares[name][item] = ModelShare(*share)
    return shares


def _work(counts: Counts) -> int:
    tokens = counts.get(Produced.PROMPT, 0) + counts.get(Produced.OUTPUT, 0)
    return tokens or counts.get(Produced.REQUESTS, 0)


def phase(counts: Counts) -> Produced | None:
    """Return what a server did nothing but: read prompts, or write output. `None`: both.

    Only then is the energy of that phase measured. Reading a prompt yields one token, so a server
    that only prefills has no more output than requests.
    """
    prompt, output = counts.get(Produced.PROMPT), counts.get(Produced.OUTPUT)
    if prompt is None or output is None:
        return None
    if prompt and output <= counts.get(Produced.REQUESTS, 0):
        return Produced.PROMPT
    return Produced.OUTPUT if output and not prompt else None


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was served, over the quarter hours in which both tokens and energy are known.

    Attributes:
        account: Whose workloads served it.
        person: Their user.
        experiment: Their experiment.
        name: As its server states it (`""`: it does not).
        counts: What it produced.
        energy_uj: What that took, by item (`gpu`, `host`).
        charges: Money and CO2e of that.
        idle_uj: What its servers took while they produced nothing, by item.
        idle_charges: Money and CO2e of that.
        phases: Energy (uJ) and tokens of servers that only read prompts, or only wrote output.

    """

    account: str
    person: str
    experiment: str
    name: str
    counts: Counts = {}
    energy_uj: Mapping[str, int] = {}
    charges: Charges = {}
    idle_uj: Mapping[str, int] = {}
    idle_charges: Charges = {}
    phases: Mapping[Produced, tuple[int, int]] = {}

    @property
    def active_uj(self) -> int:
        """Return the energy of its work, of GPUs and hosts."""
        return sum(self.energy_uj.values())

    def per_thousand(self, amount: int, kind: Produced) -> int | None:
        """Return an amount per 1,000 tokens or requests, rounded; `None`: there were none."""
        count = self.counts.get(kind, 0)
        return (amount * 1000 + count // 2) // count if count else None


class ServedMonth(NamedTuple):
    """A model that was served in a month (`2026-11`)."""

    month: str
    model: ServedModel
