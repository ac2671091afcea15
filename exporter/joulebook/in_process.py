"""Energy measured in a program's own process by NVML, or modelled: what there is without a daemon.

NVML's counters are those of whole GPUs: whatever else runs on them is in them, which the daemon
would tell apart. The CPU is not measured.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from joulebook.run_figures import IN_PROCESS, RunFigures

TYPE_CHECKING = False  # `typing` itself is not loaded into other people's programs
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
CPU_W = 10.0
"""The model of an estimate: watts of a core that is busy. A GPU without an energy counter is taken
to draw its power limit, the most that it may."""

_UJ_PER_MJ, _UJ_PER_J, _NS_PER_S = 1_000, 1_000_000, 1_000_000_000


class InProcess:
    """The energy of this process's GPUs from now on.

    Attributes:
        measures: Whether the driver shows an energy counter of any of them.

    """

    def __init__(self) -> None:
        self._nvml: Any = None
        with contextlib.suppress(Exception):  # not installed, no driver, a driver that is broken
            import pynvml  # noqa: PLC0415

            pynvml.nvmlInit()
            self._nvml = pynvml
        self._began_ns = time.monotonic_ns()
        self._began_mj = self._counters()
        self._began_cpu_s = _cpu_s()
        self.measures = bool(self._began_mj)

    def figures(self, *, estimate: bool) -> RunFigures | None:
        """Return what was consumed since; without a counter, only if an estimate is wanted."""
        ns = time.monotonic_ns() - self._began_ns
        now_mj = self._counters()
        # A counter that went back was reset by a reload of the driver: nothing is known of it.
        uj = sum(
            (now_mj[gpu] - mj) * _UJ_PER_MJ
            for gpu, mj in self._began_mj.items()
            if mj <= now_mj.get(gpu, -1)
        )
        node = (socket.gethostname(),)
        if self.measures:
            held_ns = ns * len(self._began_mj)
            return RunFigures(
                energy_uj=uj, gpu_ns=held_ns, known_ns=held_ns, methods={IN_PROCESS: uj},
                nodes=node, node_count=1,
            )  # fmt: skip
        if not estimate:
            return None
        limits_mw = list(self._limits_mw())
        uj = sum(limits_mw) * ns // _NS_PER_S * (_UJ_PER_J // 1_000)
        uj += int((_cpu_s() - self._began_cpu_s) * CPU_W * _UJ_PER_J)
        return RunFigures(
            energy_uj=uj, gpu_ns=ns * len(limits_mw), methods={"modelled": uj}, nodes=node,
            node_count=1,
        )  # fmt: skip

    def _counters(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for gpu, handle in self._handles():
            with contextlib.suppress(Exception):  # no such counter before Volta
                found[gpu] = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return found

    def _limits_mw(self) -> Iterator[int]:
        for _, handle in self._handles():
            with contextlib.suppress(Exception):
                yield self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle)

    def _handles(self) -> Iterator[tuple[str, Any]]:
        """Yield the GPUs that CUDA shows this process, by UUID."""
        if self._nvml is None:
            return
        with contextlib.suppress(Exception):
            every: list[tuple[str, Any]] = []
            for index in range(self._nvml.nvmlDeviceGetCount()):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = self._nvml.nvmlDeviceGetUUID(handle)
                every.append((uuid.decode() if isinstance(uuid, bytes) else uuid, handle))
            yield from (
                every[n] for n in shown([uuid for uuid, _ in every], os.environ.get(VISIBLE))
            )


def shown(uuids: list[str], visible: str | None) -> list[int]:
    """Return which GPUs CUDA shows: all without the variable, else those before the first that is
    none. Parts of a GPU (MIG) have no counter of their own.
    """
    if visible is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for word in filter(None, map(str.strip, visible.split(","))):
        if word.isdecimal():
            alike = [int(word)] if int(word) < len(uuids) else []
        else:
            alike = [n for n, uuid in enumerate(uuids) if uuid.startswith(word)]
        if len(alike) != 1 or alike[0] in found:
            break
        found += alike
    return found


def _cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
