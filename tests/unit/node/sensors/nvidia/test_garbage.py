"""What cannot be true is refused, counted and a gap; other cards go on, and so does the ledger."""

from __future__ import annotations

import ctypes
import logging
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tests.fakes.nvml.scenario import Gpu, Process
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, Bench, MakeBench

from joulebook.clock import Anchor
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.errors import SensorError
from joulebook.ledger.sqlite import SqliteStore
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.nvidia.gpu import OpenGpu
from joulebook.node.sensors.nvidia.sensor import REOPEN_FIRST_NS, NvmlSensor

INIT = "nvmlInitWithFlags"
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def meter(slot: int = 0) -> Meter:
    return Meter(Component.GPU, f"GPU-00000000-0000-0000-0000-{slot:012x}")


def bad_energy(card: OpenGpu) -> None:
    def energy() -> int:
        card.device._u64.value = 1 << 62
        return 0

    card.device._energy = energy


def bad_uptime(card: OpenGpu) -> None:
    def uptime() -> int:
        card.device._u64.value = 1 << 63
        return 0

    card.device._uptime = uptime


def bad_fields(card: OpenGpu) -> None:
    def fields() -> int:
        buffer = card.device.field_values.buffer
        for at in range(0, len(buffer), 40):
            struct.pack_into("=IiQ", buffer, at + 24, 3, 0, 18_000_000_000_000_000_000)
        return 0

    card.device.field_values._call = fields


def bad_gauges(card: OpenGpu) -> None:
    def garbage() -> int:
        card.device._u32.value = 0xFFFF_FFFF
        return 0

    for name in ("_temperature", "_sm_clock", "_memory_clock", "_limit", "_encoder", "_power"):
        setattr(card.device, name, garbage)


def listing(fill: Callable[[int], bytes], count: int) -> Callable[[OpenGpu], None]:
    """A process list of so many entries, as the driver wrote them."""

    def spoil(card: OpenGpu) -> None:
        def answer(room: Any, out: ctypes.Array[ctypes.c_char]) -> int:
            room._obj.value = count
            text = b"".join(fill(i) for i in range(min(count, 64)))
            ctypes.memmove(out, text, len(text))
            return 0

        card._uses._reader._lists = {"nvmlDeviceGetComputeRunningProcesses": answer}

    return spoil


CHANCE = random.Random(7)
SPOILED = {
    "energy": (bad_energy, "energy_implausible"),
    "uptime": (bad_uptime, "uptime_implausible"),
    "fields": (bad_fields, "power_implausible"),
    "gauges": (bad_gauges, "temperature_implausible"),
    "unfilled list": (listing(lambda _: b"", 3), "processes_implausible"),
    "list of nobody": (listing(lambda _: bytes(24), 5), "processes_implausible"),
    "list of garbage": (listing(lambda _: CHANCE.randbytes(24), 64), "processes_implausible"),
    "endless list": (listing(lambda _: b"", 2**31), "processes_implausible"),
    "memory": (listing(lambda i: struct.pack("=I4xQII", 10 + i, 2**63, 9, 9), 2),
               "memory_implausible"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILED)
def test_one_gpus_garbage_is_refused_and_counted_and_the_other_goes_on(
    bench: MakeBench, tmp_path: Path, kind: str
) -> None:
    spoil, reason = SPOILED[kind]
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()
    spoil(sensor._cards[meter(0)])
    polls = watch(place, sensor, tmp_path)
    for poll in polls:
        assert meter(1) in {reading.meter for reading in poll.readings}
        for status in poll.statuses:
            assert all(value < 1e12 for value in status.values.values())
            assert status.values.get("power_watts", 0) < 1000
    assert polls[-1].rejected[reason] > 0
    silent = {f.reason for poll in polls for f in poll.failures}
    assert silent == ({"energy_implausible"} if kind == "energy" else set())
    for poll in polls:
        for reading in poll.readings:
            assert all(0 < p.pid <= 2**22 for p in reading.processes or ())
            assert all((p.memory_bytes or 0) < 2**50 for p in reading.processes or ())


def watch(place: Bench, sensor: NvmlSensor, tmp_path: Path) -> list[PollResult]:
    """Some looks, each booked and committed; the ledger can be opened again."""
    store = SqliteStore(tmp_path / "ledger.db", allow_volatile=True)
    store.load()
    books, polls = Books(), []
    for _ in range(8):
        place.scenario.advance(SECOND)
        poll = sensor.poll(processes=True)
        polls.append(poll)
        now_ns = place.clock.now_ns()
        tick = Tick(now_ns, readings=poll.readings, failures=poll.failures)
        after, entry = advance(books, tick, BookingPolicy())
        store.commit(books, after, entry, Anchor("b", 0, now_ns))
        books = after
    store.close()
    again = SqliteStore(tmp_path / "ledger.db", allow_volatile=True)
    assert again.load()[0].last_ns == books.last_ns
    again.close()
    return polls


def test_an_exception_that_nobody_foresaw_is_that_gpus(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()

    def fault(**_: object) -> None:
        raise struct.error("unpack requires a buffer of 24 bytes")

    sensor._cards[meter(0)].poll = fault  # type: ignore[method-assign, assignment]
    poll = sensor.poll(processes=True)
    assert [r.meter for r in poll.readings] == [meter(1)]
    assert [(f.meter, f.reason) for f in poll.failures] == [(meter(0), "fault")]


def test_one_answer_of_garbage_books_nothing_and_is_a_gap(bench: MakeBench, tmp_path: Path) -> None:
    place = bench([Gpu(has_energy_counter=False, enforced_limit_mw=700_000)])
    sensor = place.sensor()
    (card,) = sensor._cards.values()
    books, real = Books(), card.device.field_values._call
    for second in range(12):
        place.scenario.advance(SECOND)
        card.device.field_values._call = real
        if second == 5:
            bad_fields(card)
            bad_gauges(card)
            place.scenario.inject("nvmlDeviceGetSamples", pynvml.NVML_ERROR_NOT_SUPPORTED, count=1)
        poll = sensor.poll(processes=False)
        tick = Tick(place.clock.now_ns(), readings=poll.readings, failures=poll.failures)
        books, _ = advance(books, tick, BookingPolicy())
    (state,) = books.meters.values()
    assert state.read_uj == pytest.approx(11 * 50e6, rel=0.1)
    assert sum(books.gaps_ns.values()) > 0


@pytest.mark.parametrize("uuid", ["", "\0", "GPU-\x1b[2J"])
def test_a_card_without_a_name_is_not_opened(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, uuid: str
) -> None:
    place = bench([Gpu()])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda _handle: uuid)
    poll = place.sensor().poll(processes=False)
    assert poll.readings == ()
    assert [f.reason for f in poll.failures] == ["uuid_implausible"]


def test_a_name_that_is_no_text_costs_nothing(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bench([Gpu()])

    def name(_handle: object) -> str:
        return b"\xff\xfe".decode()

    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", name)
    poll = place.sensor().poll(processes=False)
    assert len(poll.readings) == 1
    assert poll.statuses[0].model == ""


# ---- the session ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2**32 - 1, 10_000])
def test_an_absurd_count_of_gpus_is_refused_at_once(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    place = bench([Gpu()])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: count)
    sensor = NvmlSensor(place.clock, sysfs=place.sysfs, proc=place.proc)
    with caplog.at_level(logging.INFO), pytest.raises(SensorError) as refused:
        sensor.open()
    assert refused.value.reason == "device_count_implausible"
    assert len(caplog.records) < 3


def test_handles_that_are_invalid_open_nvml_again(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()
    place.scenario.inject(ENERGY, pynvml.NVML_ERROR_INVALID_ARGUMENT, count=2)
    poll = sensor.poll(processes=False)
    assert place.scenario.calls()[INIT] == 1
    assert len(poll.readings) == 2 and not poll.failures
    # One that stays so is sought ever less often, and the other is read all the while.
    place.scenario.reset_calls()
    place.scenario.inject(ENERGY, pynvml.NVML_ERROR_INVALID_ARGUMENT, gpu=0)
    for _ in range(600):
        place.scenario.advance(SECOND)
        poll = sensor.poll(processes=False)
        assert [r.meter for r in poll.readings] == [meter(1)]
    assert 3 <= place.scenario.calls()[INIT] <= 8


def test_where_there_is_no_gpu_at_the_start_it_is_looked_for_again(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    place = bench([Gpu()], order=[])
    sensor = place.sensor()
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            place.scenario.advance(SECOND)
            assert sensor.poll(processes=True).readings == ()
    assert len(caplog.records) <= 10
    place.scenario.reload(order=[0])
    place.scenario.set_process(0, Process(pid=11))
    for _ in range(3 * 60):
        place.scenario.advance(SECOND)
        poll = sensor.poll(processes=True)
    assert [r.meter for r in poll.readings] == [meter(0)]
    assert REOPEN_FIRST_NS == 10 * SECOND
