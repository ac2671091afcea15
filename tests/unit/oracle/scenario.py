"""What happens to a node: a plan made of a number, and a smaller one that fails alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from joulebook.core.energy.readings import Component, InstanceUse, Meter

S = 1_000_000_000
UTC_S = 1_760_000_400


class Action(NamedTuple):
    """One thing that happens, so long after the begin: `World.do_<what>(*arguments)`."""

    at_ms: int
    what: str
    arguments: tuple[object, ...] = ()


class RateStep(NamedTuple):
    """The rates from a UTC second on; `None`: not known. Nano-EUR and ug per kWh, millionths."""

    from_s: int
    price: int | None
    carbon: int | None
    pue: int


class CardPlan(NamedTuple):
    """The first fields of `machine.Card`."""

    meter: Meter
    model: str
    power_mw: int
    counter: bool
    uptime: bool
    period_ns: int
    lifetime_uj: int
    wrap_uj: int | None
    instances: tuple[InstanceUse, ...]


class Plan(NamedTuple):
    """A scenario."""

    seed: int
    start_s: int
    length_ms: int
    interval_s: float
    commit_s: float
    settle_ns: int
    zero_hold_ns: int
    linger_ns: int
    expire_ns: int
    most: int
    sensors: int
    cards: tuple[CardPlan, ...]
    rates: tuple[RateStep, ...]
    actions: tuple[Action, ...]


def plan(seed: int) -> Plan:
    """The scenario of this number, always the same."""
    chance = random.Random(seed)
    cards = tuple(_card(chance, i) for i in range(chance.choice((0, 1, 1, 2, 2, 3))))
    length_ms = chance.choice((15_000, 30_000, 30_000, 60_000))
    start_s = 900 - UTC_S % 900 - chance.randrange(length_ms // 1000 + 30)
    actions = sorted(_actions(chance, length_ms, UTC_S + start_s))
    return Plan(
        seed,
        start_s,
        length_ms,
        interval_s=chance.choice((1.0, 2.0, 5.0, 5.0)),
        commit_s=chance.choice((0.0, 10.0, 10.0, 10.0)),
        settle_ns=chance.choice((1, 3, 3, 6)) * S,
        zero_hold_ns=chance.choice((4, 8, 20)) * S,
        linger_ns=chance.choice((5, 20, 900)) * S,
        expire_ns=chance.choice((10, 40, 86_400)) * S,
        most=chance.choice((1, 2, 3, 100)),
        sensors=chance.choice((1, 1, 2)),
        cards=cards,
        rates=_rates(chance, UTC_S + start_s),
        actions=tuple(actions),
    )


def _card(chance: random.Random, index: int) -> CardPlan:
    meter = Meter(Component.GPU, f"GPU-{index}")
    model = chance.choice(("NVIDIA A100", "NVIDIA H100", "other"))
    kind = chance.choice(("uptime", "uptime", "plain", "wrap", "power", "mig"))
    halves = tuple(InstanceUse(f"MIG-{index}-{half}", 1, 2) for half in "ab")
    return CardPlan(
        meter,
        model,
        chance.randrange(40_000, 120_000),
        kind != "power",
        kind in {"uptime", "mig"},
        chance.choice((20, 20, 50, 100)) * 1_000_000,
        5_000_000_000_000 + chance.randrange(10**9) * 1_000,
        65_000_000_000 if kind == "wrap" else None,
        halves if kind == "mig" else (),
    )


def _rates(chance: random.Random, begin_s: int) -> tuple[RateStep, ...]:
    """No rates, constant ones, or steps: unknown at times, and below zero."""
    kind = chance.choice(("none", "constant", "steps", "steps"))
    if kind == "none":
        return ()
    if kind == "constant":
        return (RateStep(0, chance.randrange(1, 10**9), chance.randrange(10**9), 1_300_000),)
    return tuple(
        RateStep(
            begin_s + at_s,
            chance.choice((None, chance.randrange(-(10**8), 0), chance.randrange(10**9))),
            chance.choice((None, chance.randrange(10**9), chance.randrange(10**9))),
            chance.choice((1_000_000, 1_250_000)),
        )
        for at_s in (-4_000, *sorted(chance.sample(range(-900, 1_800), 3)))
    )


WHO_TELLS = ("prolog", "prolog", "prolog", "rumours", "both")


def _actions(chance: random.Random, length_ms: int, begin_s: int) -> list[Action]:
    """Jobs on the cards, and a few other things at any time."""
    found: list[Action] = []
    pick = chance.choice
    for job in range(chance.randrange(1, 7)):
        at_ms, card = chance.randrange(length_ms), chance.randrange(3)
        lasts_ms = round(chance.expovariate(1 / pick((500, 8_000, 30_000))))
        parts, of = pick(((1, 1), (1, 1), (1, 2), (2, 4), (1, 3)))
        late_ms = pick((0, 0, 50, 2_000, 8_000))
        found += [
            Action(at_ms, "begin", (job, card, parts, of, late_ms, pick(WHO_TELLS))),
            Action(at_ms + pick((0, 30)), "power", (card, chance.randrange(100_000, 700_000))),
            Action(at_ms + lasts_ms, "end", (job, pick((0, 0, 2_000)), chance.random() < 0.3)),
            Action(at_ms + lasts_ms, "power", (card, chance.randrange(40_000, 120_000))),
        ]
    made: list[Callable[[], tuple[str, tuple[object, ...]]]] = [
        lambda: ("reload", (chance.randrange(3),)),
        lambda: ("hang", (chance.randrange(2), pick((700, 5_000, 30_000)), pick((True, False)))),
        lambda: ("lose", (chance.randrange(3), pick((3_000, 20_000, 90_000)), pick((True, False)))),
        lambda: ("break", (chance.randrange(2), pick((2_000, 20_000)))),
        lambda: ("garbage", (chance.randrange(3), pick(("zero", "huge")))),
        lambda: ("step_clock", (pick((-3_600, -2, 90, 3_600, 86_400 * 400)),)),
        lambda: ("suspend", (pick((500, 30_000, 1_000_000)),)),
        lambda: ("stall", (pick((500, 30_000)),)),
        lambda: ("reboot", (pick((3_000, 60_000)),)),
        lambda: ("disk", (pick((3_000, 15_000, 60_000)),)),
        lambda: ("fail", (pick(("full", "before", "after")),)),
        lambda: ("fail", (f"interrupt:{chance.randrange(1, 2_000)}",)),
        lambda: ("fail", (f"midst:{chance.randrange(1, 2_000)}",)),
        lambda: ("kill", (pick((100, 3_000, 40_000)),)),
        lambda: ("stop", (pick((100, 3_000, 40_000)),)),
        lambda: ("silence", (chance.randrange(2), pick((3_000, 30_000)), pick((True, False)))),
        lambda: ("rates", (_rates(chance, begin_s),)),
        lambda: ("process", (chance.randrange(3), chance.randrange(100, 10**6), chance.randrange(6),
                             pick((700, 9_000, 40_000)), chance.random() < 0.4)),
    ]  # fmt: skip
    for _ in range(chance.randrange(0, 7)):
        what, arguments = pick(made)()
        found.append(Action(chance.randrange(length_ms), what, arguments))
    if chance.random() < 0.1:
        at_ms = chance.randrange(length_ms)
        found.append(Action(at_ms, "disk", (20_000,)))
        found.append(Action(at_ms + chance.randrange(20_000), "kill", (100,)))
    if chance.random() < 0.15:
        at_ms = chance.randrange(length_ms)
        found.append(Action(at_ms, "backup"))
        found.append(Action(at_ms + chance.randrange(length_ms), "restore", (3_000,)))
    if chance.random() < 0.4:
        found += [
            Action(chance.randrange(length_ms), "collect", (pick((3, 20, 1_000)),))
            for _ in range(chance.randrange(1, 5))
        ]
    step_ms = pick((1_500, 5_000, 9_000, 9_000))
    found += [Action(at_ms, "scrape") for at_ms in range(step_ms, length_ms, step_ms)]
    return found


def smaller(failing: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The plan with as few of its actions as still fail: halves first, then one by one."""
    size = len(failing.actions)
    while size:
        start = 0
        while start < len(failing.actions):
            rest = failing.actions[:start] + failing.actions[start + size :]
            if fails(failing._replace(actions=rest)):
                failing = failing._replace(actions=rest)
            else:
                start += size
        size //= 2
    return failing
