"""Idle allocations with what they cost, and jobs that asked for more than they used."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.lab.advice.jobs import ADA, card, charges, job

from joulebook.core.evidence import Amount
from joulebook.core.money.rates import NANO
from joulebook.core.workloads import Labels
from joulebook.lab.advice import idle, size
from joulebook.lab.advice.model import AdviceKind, CardUse, JobUse
from joulebook.lab.advice.size import CardSize
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

MONEY = charges(electricity=10, hardware=900, idle_electricity=1, idle_hardware=90, co2e=20)


def on(*cards: CardUse, **more: Any) -> JobUse:
    """A job on cards."""
    gpu = Amount(
        sum(c.energy_uj for c in cards),
        sum(c.idle_uj for c in cards),
        sum(c.held_ns for c in cards),
        sum(c.idle_ns for c in cards),
    )
    return job(cards=cards, gpu=gpu, energy_uj=gpu.energy_uj, charges=MONEY, **more)


def test_each_idle_hour_is_in_one_kind_and_costs_what_was_charged() -> None:
    # Eight hours held: one card never worked, the other slept for 4 h and waited for 2 h before.
    made = on(card(8, 6, after_h=4), card(8, 8, after_h=4))
    lines = {line.kind: line for line in idle.advise([made])}
    hours = {AdviceKind.GPUS: 8, AdviceKind.AFTER_WORK: 4, AdviceKind.IDLE: 2}
    assert set(lines) == set(hours)
    for kind, line in lines.items():
        assert line.saving is not None
        share = hours[kind] / 14
        # Hardware is 90 of the 91 EUR.
        assert line.saving.money == {"EUR": pytest.approx(91 * NANO * share, rel=1e-6)}
        assert line.saving.energy_uj == pytest.approx(hours[kind] * UJ_PER_KWH / 10)
        assert [each.shown for each in line.jobs] == ["101"]
        assert line.labels == ADA
    assert "used 1 of 2 GPUs" in lines[AdviceKind.GPUS].evidence
    assert "after the last work" in lines[AdviceKind.AFTER_WORK].evidence
    total = sum(sum(line.saving.money.values()) for line in lines.values() if line.saving)
    assert total == pytest.approx(91 * NANO, rel=1e-6)
    co2e = sum(line.saving.co2e_ug or 0 for line in lines.values() if line.saving)
    assert co2e == pytest.approx(20 * NANO * made.gpu.idle_uj / made.energy_uj, rel=1e-6)


def test_jobs_with_the_same_name_are_two_jobs() -> None:
    """Pods of a set, and numbers that a scheduler uses again."""
    (line,) = idle.advise([on(card(3, 3)), on(card(2, 2))])
    assert line.saving is not None
    assert line.saving.energy_uj == 5 * UJ_PER_KWH // 10
    assert line.evidence.startswith("2 jobs (2 never worked): ")


def test_a_job_that_never_worked_is_idle_and_no_card_of_it_is_called_unused() -> None:
    (line,) = idle.advise([on(card(3, 3), card(3, 3))])
    assert line.kind is AdviceKind.IDLE
    assert "(1 never worked)" in line.evidence


def test_a_job_whose_quarter_hours_were_not_read_is_idle_as_a_whole() -> None:
    made = job(gpu=Amount(UJ_PER_KWH, UJ_PER_KWH // 10, NS_PER_HOUR, NS_PER_HOUR // 2))
    (line,) = idle.advise([made])
    assert line.kind is AdviceKind.IDLE
    assert line.saving is not None
    assert line.saving.money == {}  # no price
    assert line.saving.co2e_ug is None  # no intensity


def test_a_few_idle_minutes_are_no_line_and_owners_are_apart() -> None:
    assert list(idle.advise([on(card(1, 0.05))])) == []
    other = Labels("bob", "nlp", "bert")
    lines = list(idle.advise([on(card(4, 2)), on(card(4, 2), shown="102", labels=other)]))
    assert [line.labels for line in lines] == [ADA, other]


SIZES = [
    CardSize("", "a100", "A100", 40),
    CardSize("", "h100", "H100", 80),
    CardSize("", "mid", "A6000", 48),
    CardSize("far", "t4", "T4", 16),
]


def test_the_smallest_card_that_the_memory_fits_into() -> None:
    small = job(memory_gib=12, card_gib=80)
    (line,) = size.memory([small], SIZES)
    assert line.saving is None  # nothing is known of its speed there
    assert "never used more than 12 GiB of a card's 80 GiB" in line.evidence
    assert "partition a100 (40 GiB a card)" in line.next_step
    larger = job("102", memory_gib=41, card_gib=80)
    (line,) = size.memory([small, larger], SIZES)
    assert "partition mid (48 GiB a card)" in line.next_step
    for fitting in ([job(memory_gib=40, card_gib=48)], [job(memory_gib=70, card_gib=80)],
                    [small, job("102")], [job()], []):  # fmt: skip
        assert list(size.memory(fitting, SIZES)) == []


def test_a_time_limit_is_compared_with_the_longest_run() -> None:
    def ran(hours: float, asked_h: int, **more: Any) -> JobUse:
        return job(started_s=0, ended_s=int(hours * 3600), asked_s=asked_h * 3600, **more)

    (line,) = size.time_limit([ran(2, 48), ran(1, 48)])
    assert line.saving is None
    assert "2 jobs asked for 48.0 h or more; the longest took 2.00 h" in line.evidence
    assert "--time=3:00:00" in line.next_step
    assert list(size.time_limit([ran(2, 48), ran(40, 48)])) == []
    assert list(size.time_limit([ran(2, 0)])) == []
    assert list(size.time_limit([ran(2, 48, outcome="failed")])) == []
    assert list(size.time_limit([ran(0.2, 1)])) == []  # less than an hour too much
