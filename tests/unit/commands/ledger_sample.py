"""A real ledger, written as the daemon writes it: three GPUs, jobs of every kind that is asked for.

GPU 0 draws 300 W, GPU 1 draws 100 W with no work on it; both have counters. GPU 2 only knows its
power, 250 W. The ledger covers `MINUTES` minutes and ends now, so that what runs is running.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from joulebook.clock import Anchor
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S, PJ_PER_UJ

S = NS_PER_S
MINUTES = 30
STEP_S = 5
GPUS = tuple(Meter(Component.GPU, f"GPU-5ef3a1c0-0000-4000-8000-00000000000{i}") for i in range(3))
WATTS = (300, 100, 250)

HOSTILE = "\x1b[2J\x1b]0;owned\x07rm -rf\u202e\n\x00evil"
"""Clears the screen, retitles the window, turns the text round."""


def begin_ns() -> int:
    """Where the ledger begins, so that it ends about now."""
    return time.time_ns() - MINUTES * 60 * S


class SampleJob:
    """A job that holds GPUs (by number, parts, of) in `[start, end)`, in s since the begin."""

    def __init__(
        self,
        workload: str,
        gpus: tuple[tuple[int, int, int], ...],
        start_s: float,
        end_s: float | None,
        *,
        display: str = "",
        labels: Labels | None = None,
        name: str = "train",
        end_is_told: bool = True,
        evidence: Evidence = Evidence.PROLOG,
    ) -> None:
        self.id = WorkloadId("slurm", workload)
        self.gpus = gpus
        self.start_s, self.end_s = start_s, end_s
        self.display, self.labels, self.name = display, labels or ADA, name
        self.end_is_told = end_is_told
        self.evidence = evidence

    def claims(self, t0: int, now_ns: int) -> Iterable[Claim]:
        start = t0 + round(self.start_s * S)
        end = None if self.end_s is None else t0 + round(self.end_s * S)
        if start <= now_ns:
            for gpu, parts, of in self.gpus:
                t1 = end if end is not None and end <= now_ns else None
                yield Claim(self.id, GPUS[gpu], start, t1, self.evidence, parts, of)

    def facts(self, t0: int, now_ns: int) -> Iterable[WorkloadFacts]:
        if t0 + self.start_s * S <= now_ns:
            reported = self.end_is_told and self.end_s is not None
            ended = t0 + round((self.end_s or 0) * S) if reported else None
            yield WorkloadFacts(
                self.id,
                display=self.display,
                name=self.name,
                labels=self.labels,
                started_ns=t0 + round(self.start_s * S),
                ended_ns=ended if ended is not None and ended <= now_ns else None,
                complete=True,
                gpu_count=len(self.gpus),
                evidence=self.evidence.label,
                extra={"partition": "a100", "gpu_model": "NVIDIA A100"},
            )


ADA = Labels("ada", "nlp", "bert-base")
SWEEP = Labels("grace", "vision", "sweep")
JOBS = (
    SampleJob("101", ((0, 1, 1),), 60, 660),  # 600 s x 300 W = 180 kJ, all of it work
    SampleJob("102", ((1, 1, 1),), 60, None),  # idle, still running
    *(
        SampleJob(str(200 + task), ((2, 1, 1),), 60 * task, 60 * task + 30,
                  display=f"200_{task}", labels=SWEEP)
        for task in range(1, 12)
    ),
    SampleJob("300", ((0, 1, 1),), 700, 760),
    SampleJob("300.r1", ((0, 1, 1),), 800, 860),
    SampleJob("400", ((0, 1, 2), (2, 1, 1)), 900, 960),  # half of a GPU and a whole one
    SampleJob("500", ((0, 1, 1),), 1000, 1010, name=HOSTILE, labels=Labels(HOSTILE, "", "")),
    SampleJob("600", ((0, 1, 1),), 100, 110, end_is_told=False, evidence=Evidence.GPUSTAT),
    SampleJob("700", (), 120, 130),  # no GPU
)  # fmt: skip


def write_ledger(path: Path, epoch: str = "boot") -> Books:
    """Make the ledger at `path`; gives the books that it ends with."""
    t0 = begin_ns()
    store = SqliteStore(path, allow_volatile=True)
    books, _ = store.load()
    for second in range(0, MINUTES * 60 + 1, STEP_S):
        now_ns = t0 + second * S
        tick = Tick(
            now_ns,
            readings=tuple(_reading(gpu, second, now_ns, epoch) for gpu in range(3)),
            claims=tuple(claim for job in JOBS for claim in job.claims(t0, now_ns)),
            complete=frozenset({Evidence.PROLOG, Evidence.GPUSTAT}),
            facts=tuple(fact for job in JOBS for fact in job.facts(t0, now_ns)),
            resumed=False,
        )
        after, entry = advance(books, tick, BookingPolicy())
        store.commit(books, after, entry, Anchor("boot", 0, now_ns))
        books = after
    store.close()
    return books


def _reading(gpu: int, second: int, now_ns: int, epoch: str) -> Reading:
    consumed_uj = WATTS[gpu] * 1000 * second * S // PJ_PER_UJ
    return Reading(
        GPUS[gpu],
        now_ns,
        energy_uj=None if gpu == 2 else 5_000_000_000 + consumed_uj,
        power_mw=WATTS[gpu] * 1000,
        samples=(),
        epoch=epoch,
        max_power_mw=1_000_000,
        busy=gpu != 1,
        processes=(),
    )
