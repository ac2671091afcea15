"""Held time x activity of the tensor cores, as GPM tells it every other second."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.core.world import Device, Job, S, World, at, gpu, play, powered

from joulebook.core.evidence import Amount
from joulebook.core.ledger.advance import Tick


def told(world: World, ppm: int | None) -> list[Tick]:
    """The ticks of a world whose looks at even seconds tell how busy the tensor cores were."""
    ticks = []
    for n, tick in enumerate(world.ticks()):
        readings = tuple(
            msgspec.structs.replace(each, tensor_ppm=ppm if not n % 2 else None)
            for each in tick.readings
        )
        ticks.append(msgspec.structs.replace(tick, readings=readings))
    return ticks


def of_jobs(ppm: int | None, *jobs: Job) -> dict[str, Amount]:
    curve = powered(tuple((job.t0_ns, job.t1_ns, 240_000) for job in jobs))
    world = World((Device(gpu(), curve),), jobs, ((at(0), at(30)),))
    found: dict[str, Amount] = {}
    for key, amount in play(told(world, ppm)).postings.items():
        name = str(getattr(key.subject, "workload", key.subject))
        found[name] = found.get(name, Amount(0)).plus(amount)
    return found


def test_a_job_gets_the_activity_of_its_own_time() -> None:
    found = of_jobs(400_000, Job("a_1", gpu(), at(5), at(15)))
    job = found.pop("a_1")
    assert job.held_ns == job.tensor_known_ns == pytest.approx(10 * S, rel=1e-6)
    assert job.tensor_ns == pytest.approx(4 * S, rel=1e-6)
    assert all(rest.tensor_ns == rest.tensor_known_ns == 0 for rest in found.values())


def test_those_who_share_a_card_get_it_by_what_they_hold() -> None:
    jobs = [Job(f"{name}_1", gpu(), at(5), at(15), 1, 4) for name in "ab"]
    found = of_jobs(400_000, *jobs)
    for name in ("a_1", "b_1"):
        assert found[name].tensor_known_ns == pytest.approx(2.5 * S, rel=1e-6)
        assert found[name].tensor_ns == pytest.approx(1 * S, rel=1e-6)


def test_what_nobody_tells_is_not_known_and_0_is_0() -> None:
    unknown = of_jobs(None, Job("a_1", gpu(), at(5), at(15)))["a_1"]
    assert (unknown.tensor_ns, unknown.tensor_known_ns) == (0, 0)
    none = of_jobs(0, Job("a_1", gpu(), at(5), at(15)))["a_1"]
    assert none.tensor_ns == 0 and none.tensor_known_ns == none.held_ns
