"""Worlds for hypothesis, and two kinds of them: one as it is, one in which everything is exact.

In the exact one counters flow instead of stepping, and all that happens happens on the second:
what each workload must get is known to the millijoule.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from tests.unit.core.world import MS, Device, Job, Run, S, Span, World, at, gpu, powered

from joulebook.core.attribution.claims import Evidence
from joulebook.core.workloads import WorkloadId
from joulebook.units import UJ_PER_MJ

MJ = UJ_PER_MJ
"""A counter in whole millijoules hides less than this at each end."""


@st.composite
def worlds(draw: st.DrawFn, *, faults: bool = True, kills: bool = True) -> World:
    """One or two devices with ticking counters; jobs, and all that may go wrong."""
    devices, jobs, end_ns = [], [], at(6)
    for number in range(draw(st.integers(1, 2))):
        t_ns, spans = at(1), []
        meter = gpu(f"GPU-{number}")
        for n in range(draw(st.integers(0, 4))):
            t0_ns = t_ns + draw(st.integers(0, 3000)) * MS + draw(st.integers(0, 999_999))
            t_ns = t0_ns + draw(st.sampled_from([50, 300, 800, 2500, 5000])) * MS
            spans.append((t0_ns, t_ns, draw(st.integers(0, 500)) * 1000))
            job = Job(
                f"{draw(st.sampled_from('xyz'))}_{number}{n}",
                meter,
                t0_ns,
                t_ns,
                parts=draw(st.sampled_from([1, 4])),
                of=4,
                late_ns=draw(st.sampled_from([0, 0, 40, 900, 2500, 6000])) * MS,
                evidence=draw(st.sampled_from([Evidence.PROLOG, Evidence.POD_RESOURCES])),
                vanishes=draw(st.booleans()),
            )
            jobs.append(job if job.parts == 1 else replace(job, parts=1, of=1))
            if draw(st.booleans()):
                t_ns -= (t_ns - t0_ns) // 2
        end_ns = max(end_ns, t_ns + 6 * S)
        devices.append(
            Device(
                meter,
                powered(tuple(spans)),
                phase_ns=draw(st.integers(0, 99)) * MS,
                seed=draw(st.integers(0, 10**6)),
                counter=draw(st.integers(0, 4)) > 0 if faults else True,
                power=draw(st.booleans()),
                garbage=tuple(
                    (second, says)
                    for second in range(2, 20)
                    if faults and (says := draw(st.sampled_from(GARBAGE))) is not None
                ),
            )
        )
    spans_st = st.tuples(st.integers(0, 15_000), st.integers(1, 4000)).map(
        lambda p: (at(p[0] / 1000), at((p[0] + p[1]) / 1000))
    )
    alive = draw(lives(end_ns)) if kills else ((at(0), end_ns),)
    few = st.lists(spans_st, max_size=1).map(tuple) if faults else st.just(())
    return World(
        tuple(devices),
        tuple(jobs),
        alive,
        silent=draw(few),
        lost=draw(few),
        hung=draw(few),
        utc_steps=((at(4), draw(st.sampled_from([0, 3600, -3600])) * S),),
    )


GARBAGE = [None] * 24 + [0, 10**16 + 10**15]
"""What the counter says instead: nothing of its life, or far more than ever before."""


@st.composite
def lives(draw: st.DrawFn, end_ns: int) -> tuple[Span, ...]:
    """When the daemon runs: killed and started again up to three times."""
    spans, t_ns = [], at(0)
    for _ in range(draw(st.integers(0, 3))):
        stop_ns = t_ns + draw(st.integers(1, 6000)) * MS
        spans.append((t_ns, stop_ns))
        t_ns = stop_ns + draw(st.integers(1, 5000)) * MS
    return (*spans, (t_ns, max(end_ns, t_ns + 4 * S)))


@st.composite
def exact_worlds(draw: st.DrawFn) -> World:
    """One flowing counter; jobs, at most one at a time, and power change on whole seconds."""
    second, jobs, spans = 1, [], []
    for n in range(draw(st.integers(1, 4))):
        start = second + draw(st.integers(0, 3))
        second = start + draw(st.integers(1, 8))
        jobs.append(Job(f"{n}", gpu(), at(start), at(second)))
        spans.append((at(start), at(second), draw(st.integers(0, 500)) * 1000))
    device = Device(gpu(), powered(tuple(spans)), period_ns=0, jitter_ns=0)
    return World((device,), tuple(jobs), ((at(0), at(second + 8)),), bursts=False)


def exact_shares(world: World) -> dict[WorkloadId, int]:
    """What each job of an exact world consumed, in microjoules."""
    (device,) = world.devices
    return {job.id: device.true_uj(job.t0_ns, job.t1_ns) for job in world.jobs}


def near(run: Run, world: World, tolerance_uj: int = 2 * MJ) -> bool:
    """Whether each job of an exact world got what it consumed."""
    got = run.by_subject()
    return all(abs(got.get(id_, 0) - uj) <= tolerance_uj for id_, uj in exact_shares(world).items())
