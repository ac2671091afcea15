"""How exact a job's energy is: in virtual time over many jobs, and in real time with the daemon.

Every card draws more while a job works on it. A job begins to work 20-120 ms after it is given the
card (its Prolog is over, its program starts) and stops 10-60 ms before it gives it back. The
counter steps every 100 ms +-10 ms, as the fake driver's does.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.nvml.scenario import Scenario
from tests.unit.core import world as virtual

from benchmarks.exporters import daemon
from benchmarks.methods import Held, compare, lengths
from benchmarks.table import Table
from benchmarks.world import World
from joulebook.ledger.query import LedgerReader

IDLE_MW = 60_000
LAG_S, TAIL_S = (0.02, 0.12), (0.01, 0.06)
GPUS = 8
PATIENCE_S = 120.0
PER_JOB = """
    SELECT workload, sum(energy_uj) FROM postings JOIN workloads ON workloads.id = workload_id
    GROUP BY workload
"""


def run(args: argparse.Namespace) -> list[Table]:
    """Both, one table each."""
    return [_virtual(4 if args.quick else 24), _real(20.0 if args.quick else 90.0)]


# ---- virtual time: the pure core, no daemon ------------------------------------------------------


@dataclass(frozen=True)
class _Devices:
    devices: list[virtual.Device]

    def true_uj(self, gpu: int, t0_ns: int, t1_ns: int) -> int:
        return self.devices[gpu].true_uj(t0_ns, t1_ns)

    def counter_uj(self, gpu: int, t_ns: int) -> int:
        return self.devices[gpu].counter_uj(t_ns)


def _virtual(cards: int, per_card: int = 40) -> Table:
    """Jobs of 0.1-60 s, one after the other on each card, half of them without a pause."""
    devices: list[virtual.Device] = []
    jobs: list[Held] = []
    booked: dict[str, int] = {}
    for card in range(cards):
        chance = random.Random(card)
        held: list[Held] = []
        spans: list[tuple[int, int, int]] = []
        t_ns = virtual.at(8)
        for number in range(per_card):
            t_ns += chance.choice((0, round(chance.uniform(0.3, 3) * 1e9)))
            end_ns = t_ns + round(lengths(chance, 0.1, 60) * 1e9)
            begin_ns = t_ns + round(chance.uniform(*LAG_S) * 1e9)
            stop_ns = end_ns - round(chance.uniform(*TAIL_S) * 1e9)
            held.append(Held(f"{card}.{number}", card, t_ns, end_ns, begin_ns, stop_ns))
            if stop_ns > begin_ns:
                spans.append((begin_ns, stop_ns, chance.randrange(40_000, 640_000)))
            t_ns = end_ns
        device = virtual.Device(
            virtual.gpu(f"GPU-{card}"),
            virtual.powered(tuple(spans), IDLE_MW),
            phase_ns=chance.randrange(100_000_000),
            seed=card,
        )
        run_ = virtual.play(
            virtual.World(
                (device,),
                tuple(virtual.Job(h.job, device.meter, h.t0_ns, h.t1_ns) for h in held),
                ((virtual.at(0), t_ns + 10 * virtual.S),),
            )
        )
        for subject, energy_uj in run_.by_subject().items():
            if isinstance(subject, tuple):
                booked[subject.workload] = energy_uj
        devices.append(device)
        jobs += held
    return compare(
        "Error of a job's energy, virtual time: ledger.advance over simulated cards, tick 1 s",
        _Devices(devices), jobs, booked,
    )  # fmt: skip


# ---- real time: the daemon, event files, the fake driver -----------------------------------------


@dataclass(frozen=True)
class _Scenario:
    scenario: Scenario

    def true_uj(self, gpu: int, t0_ns: int, t1_ns: int) -> int:
        return self.scenario.true_energy_uj(gpu, t0_ns, t1_ns)

    def counter_uj(self, gpu: int, t_ns: int) -> int:
        return 1000 * self.scenario.counter_mj(gpu, t_ns)


def _real(duration_s: float) -> Table:
    """Jobs of 0.1-20 s on each card for so long, then what the ledger says of them."""
    with World(gpus=GPUS) as world:
        for gpu in range(GPUS):
            world.scenario.set_power(gpu, IDLE_MW)
        with daemon(world):
            time.sleep(3)
            jobs = _play(world, duration_s)
            _wait_until_booked(world.directory / "ledger.db", time.time_ns())
            ledger = sqlite3.connect(f"file:{world.directory}/ledger.db?mode=ro", uri=True)
            booked = dict(ledger.execute(PER_JOB).fetchall())
            ledger.close()
        table = compare(
            f"Error of a job's energy, real time: the daemon, {GPUS} cards, {duration_s:.0f} s",
            _Scenario(world.scenario), jobs, booked,
        )  # fmt: skip
    missing = sum(job.job not in booked for job in jobs)
    table.notes.append(f"jobs missing in the ledger: {missing}")
    return table


def _wait_until_booked(ledger: Path, utc_ns: int) -> None:
    """Wait until all that was read until then is booked: on a busy machine that takes longer."""
    over = time.monotonic() + PATIENCE_S
    while time.monotonic() < over:
        with LedgerReader(ledger) as reader:
            if reader.booked_to_utc_ns([state.meter for state in reader.meters()]) >= utc_ns:
                return
        time.sleep(1)


def _play(world: World, duration_s: float) -> list[Held]:
    """Run jobs on every card, one after the other; what really happened and when."""
    chance = random.Random(3)
    numbers = itertools.count(1)
    # (when, order, what, card, job, watts in mW)
    agenda: list[tuple[float, int, str, int, str, int]] = []
    began: dict[str, int] = {}
    worked: dict[str, dict[str, int]] = {}
    held: list[Held] = []
    over = time.monotonic() + duration_s

    def plan(at: float, gpu: int) -> None:
        at += chance.choice((0.0, chance.uniform(0.3, 2)))
        length = lengths(chance, 0.1, 20)
        if at + length > over:
            return
        job, power = str(next(numbers)), chance.randrange(40_000, 400_000)
        works = (at + chance.uniform(*LAG_S), at + length - chance.uniform(*TAIL_S))
        steps = [(at, "begin"), (at + length, "end")]
        if works[0] < works[1]:
            steps += [(works[0], "work"), (works[1], "rest")]
        for when, what in steps:
            heapq.heappush(agenda, (when, next(numbers), what, gpu, job, power))

    for gpu in range(world.gpus):
        plan(time.monotonic(), gpu)
    while agenda:
        when, _, what, gpu, job, power = heapq.heappop(agenda)
        time.sleep(max(0.0, when - time.monotonic()))
        now_ns, wall_ns = world.scenario.now_ns(), time.time_ns()
        if what == "begin":
            began[job] = now_ns
            world.begin(job, gpu, start_ns=wall_ns)
        elif what == "end":
            work = worked.get(job, {"work": now_ns, "rest": now_ns})
            held.append(Held(job, gpu, began[job], now_ns, work["work"], work["rest"]))
            world.end(job, end_ns=wall_ns)
            plan(time.monotonic(), gpu)
        else:
            worked.setdefault(job, {})[what] = now_ns
            world.scenario.add_power(gpu, power if what == "work" else -power)
    return held
