# SPDX-License-Identifier: Apache-2.0
"""Create and steer the scenario file that the fake NVIDIA driver reads (see scenario.h).

A `Scenario` may be opened by several processes at once and changed while daemons read it. GPUs are
named by their slot in the list given to `Scenario.create`, which never changes; the NVML index of a
slot is its place in `order`. Times are CLOCK_BOOTTIME ns, or the scenario's own virtual ns.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from .layout import (
    COPIED,
    EVENT_FIELDS,
    FUNCTIONS,
    LIMITS,
    Architecture,
    Gpu,
    Instance,
    Kind,
    MeterStruct,
    Process,
    ResetStruct,
    ScenarioStruct,
    StepStruct,
)

__all__ = [
    "EVENT_FIELDS",
    "FUNCTIONS",
    "Architecture",
    "Gpu",
    "Instance",
    "Kind",
    "Process",
    "Scenario",
]

_MASK = (1 << 64) - 1
_PJ_PER_UJ = 1_000_000
_RIGHT_PPM = 1_000_000


class Scenario:
    """A handle on one scenario file."""

    __slots__ = ("_s", "path")

    def __init__(self, path: Path) -> None:
        """Open an existing scenario."""
        self.path = path.resolve()
        with self.path.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), ctypes.sizeof(ScenarioStruct))
        # Any: ctypes fields have no static types.
        self._s: Any = ScenarioStruct.from_buffer(mapped)
        if self._s.magic != LIMITS["SCENARIO_MAGIC"]:
            raise ValueError(f"{path} is no scenario")

    @classmethod
    def create(
        cls,
        path: Path,
        gpus: Sequence[Gpu],
        *,
        virtual_now_ns: int | None = None,
        order: Sequence[int] | None = None,
        driver_version: str = "550.54.15",
        nvml_version: str = "12.550.54.15",
    ) -> Scenario:
        """Write a new scenario that starts now, each GPU drawing its idle power.

        With `virtual_now_ns` time stands still until `advance`. `order` gives the slot of each NVML
        index (default: all, as listed); a slot left out is a card that is not there.
        """
        temporary = path.with_name(path.name + ".new")
        with temporary.open("wb") as file:
            file.truncate(ctypes.sizeof(ScenarioStruct))
            magic, size = LIMITS["SCENARIO_MAGIC"], ctypes.sizeof(ScenarioStruct)
            file.write(magic.to_bytes(4, "little") + size.to_bytes(4, "little"))
        temporary.rename(path)
        self = cls(path)
        s = self._s
        with self._writing():
            s.generation = 1
            s.gpu_count = len(gpus)
            s.driver_version = driver_version.encode()
            s.nvml_version = nvml_version.encode()
            if virtual_now_ns is None:
                s.wall_offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            else:
                s.is_virtual, s.virtual_now_ns = 1, virtual_now_ns
                s.wall_offset_ns = 1_700_000_000 * 10**9
            now = self.now_ns()
            for slot, gpu in enumerate(gpus):
                self._install(slot, gpu, now)
            self._reorder(range(len(gpus)) if order is None else order)
        return self

    def _install(self, slot: int, gpu: Gpu, now_ns: int) -> None:
        if 2 * gpu.tick_jitter_ns >= gpu.tick_period_ns > 0:
            raise ValueError("jitter of half a period or more would reorder the ticks")
        g = self._s.gpus[slot]
        for name in COPIED:
            setattr(g, name, int(getattr(gpu, name)))
        g.uuid = (gpu.uuid or f"GPU-00000000-0000-0000-0000-{slot:012x}").encode()
        g.name, g.serial = gpu.name.encode(), gpu.serial.encode()
        g.pci_bus_id = (gpu.pci_bus_id or f"00000000:{0x10 + slot:02X}:00.0").encode()
        g.minor = slot if gpu.minor is None else gpu.minor
        g.cc_major, g.cc_minor = gpu.compute_capability
        g.tick_seed = slot << 32 if gpu.tick_seed is None else gpu.tick_seed
        for place, (field_id, value) in enumerate(gpu.figures.items()):
            g.figures[place].field, g.figures[place].value = field_id, value
        g.reset_count, g.step_count = 1, 1
        g.resets[0] = ResetStruct(now_ns, gpu.counter_base_mj * 1000, gpu.uptime_base_s, _RIGHT_PPM)
        self._s.steps[slot][0] = StepStruct(now_ns, gpu.idle_mw, 0, 0)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writers' lock, with `seq` odd (scenario.h says why)."""
        with self.path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._s.seq |= 1
            try:
                yield
            finally:
                self._s.seq += 1

    def env(self, library: Path) -> dict[str, str]:
        """Return what a process needs in its environment to see this scenario through `library`."""
        return {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML_SCENARIO": str(self.path)}

    @property
    def uuids(self) -> list[str]:
        """The UUID of each slot."""
        return [self._s.gpus[slot].uuid.decode() for slot in range(self._s.gpu_count)]

    # ---- time ------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the scenario's time."""
        if self._s.is_virtual:
            return int(self._s.virtual_now_ns)
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def advance(self, ns: int) -> int:
        """Move virtual time on and return it."""
        if not self._s.is_virtual or ns < 0:
            raise ValueError("only virtual time can be advanced, and only forward")
        with self._writing():
            self._s.virtual_now_ns += ns
        return self.now_ns()

    def wall_us(self, t_ns: int) -> int:
        """Return the driver's unix time at `t_ns`, in us, as it stamps samples."""
        return (t_ns + int(self._s.wall_offset_ns)) // 1000

    def step_wall_clock(self, delta_ns: int) -> None:
        """Let the driver's unix time jump."""
        with self._writing():
            self._s.wall_offset_ns += delta_ns

    # ---- power and energy ------------------------------------------------------------------------

    def set_power(self, gpu: int, power_mw: int, *, at_ns: int | None = None) -> int:
        """Let the GPU draw `power_mw` from now (or `at_ns`) on; return that instant."""
        with self._writing():
            return self._append(gpu, power_mw, at_ns)

    def add_power(self, gpu: int, delta_mw: int, *, at_ns: int | None = None) -> int:
        """Change the power by `delta_mw` from now (or `at_ns`) on; return that instant."""
        with self._writing():
            return self._append(gpu, self._last(gpu).power_mw + delta_mw, at_ns)

    @contextmanager
    def load(self, gpu: int, power_mw: int) -> Iterator[int]:
        """Add `power_mw` while the block runs; yields the instant at which it began."""
        began_ns = self.add_power(gpu, power_mw)
        try:
            yield began_ns
        finally:
            self.add_power(gpu, -power_mw)

    def power_mw(self, gpu: int, t_ns: int) -> int:
        """Return the true power at `t_ns`."""
        step = self._step_at(gpu, t_ns)
        return int(step.power_mw) if step else 0

    def average_power_mw(self, gpu: int, t_ns: int) -> int:
        """Return the mean of the second before `t_ns`, as fields 185 and PowerUsage show it."""
        from_ns = max(t_ns - 10**9, self.start_ns(gpu))
        if from_ns >= t_ns:
            return self.power_mw(gpu, t_ns)
        return (self._energy_pj(gpu, t_ns) - self._energy_pj(gpu, from_ns)) // (t_ns - from_ns)

    def start_ns(self, gpu: int) -> int:
        """Return when the power curve begins."""
        return int(self._s.steps[gpu][0].t_ns)

    def true_energy_uj(self, gpu: int, t0_ns: int, t1_ns: int) -> int:
        """Return the exact energy of `[t0, t1)`; sums of adjacent stretches are exact too."""
        e0, e1 = (self._energy_pj(gpu, t) // _PJ_PER_UJ for t in (t0_ns, t1_ns))
        return e1 - e0

    def last_tick_ns(self, gpu: int, t_ns: int) -> int:
        """Return the last instant at or before `t_ns` at which the energy counter moved."""
        g = self._s.gpus[gpu]
        if g.tick_period_ns == 0:
            return t_ns
        k = (t_ns - g.tick_phase_ns) // g.tick_period_ns + 1
        while self._tick_ns(gpu, k) > t_ns:
            k -= 1
        return self._tick_ns(gpu, k)

    def next_tick_ns(self, gpu: int, t_ns: int) -> int:
        """Return the first instant after `t_ns` at which the energy counter moves."""
        g = self._s.gpus[gpu]
        if g.tick_period_ns == 0:
            return t_ns + 1
        k = (t_ns - g.tick_phase_ns) // g.tick_period_ns - 1
        while self._tick_ns(gpu, k) <= t_ns:
            k += 1
        return self._tick_ns(gpu, k)

    def counter_mj(self, gpu: int, t_ns: int | None = None) -> int:
        """Return what the energy counter shows at `t_ns` (default: now)."""
        t = self.now_ns() if t_ns is None else t_ns
        g = self._s.gpus[gpu]
        past = [r for r in g.resets[: g.reset_count] if r.t_ns <= t]
        reset = past[-1] if past else g.resets[0]
        tick = max(self.last_tick_ns(gpu, t), reset.t_ns)
        since_uj = self.true_energy_uj(gpu, reset.t_ns, tick)
        if g.counts_module:
            since_uj += g.module_extra_mw * (tick - reset.t_ns) // 1_000_000
        return int(reset.base_uj + since_uj * reset.rate_ppm // _RIGHT_PPM) // 1000

    def reset_counter(self, gpu: int, *, base_mj: int = 0, at_ns: int | None = None) -> int:
        """Restart counter (at `base_mj`) and uptime (at 0), as a GPU reset does."""
        with self._writing():
            return self._reset(gpu, base_mj, self.now_ns() if at_ns is None else at_ns)

    def set_counter_rate(self, gpu: int, ratio: float) -> None:
        """Let the counter count `ratio` of the energy from now on (0: it stands still)."""
        now, shown_mj = self.now_ns(), self.counter_mj(gpu)
        with self._writing():
            g = self._s.gpus[gpu]
            last = g.resets[g.reset_count - 1]
            uptime_s = last.uptime_base_s + (now - last.t_ns) // 10**9
            self._reset(gpu, shown_mj, now)
            g.resets[g.reset_count - 1].uptime_base_s = uptime_s
            g.resets[g.reset_count - 1].rate_ppm = round(ratio * _RIGHT_PPM)

    def reload(self, *, order: Sequence[int] | None = None) -> int:
        """Reload the driver: sessions and handles die, counters and uptimes restart at 0.

        `order` changes the enumeration, as in `create`.
        """
        with self._writing():
            now = self.now_ns()
            self._s.generation += 1
            for gpu in range(self._s.gpu_count):
                self._reset(gpu, 0, now)
            if order is not None:
                self._reorder(order)
        return now

    def _reorder(self, order: Sequence[int]) -> None:
        self._s.order_count = len(order)
        for index, slot in enumerate(order):
            self._s.order[index] = slot

    def _reset(self, gpu: int, base_mj: int, at_ns: int) -> int:
        g = self._s.gpus[gpu]
        if g.reset_count == LIMITS["MAX_RESETS"] or at_ns < g.resets[g.reset_count - 1].t_ns:
            raise ValueError("too many resets, or one before the last")
        g.resets[g.reset_count] = ResetStruct(at_ns, base_mj * 1000, 0, _RIGHT_PPM)
        g.reset_count += 1
        return at_ns

    def _last(self, gpu: int) -> StepStruct:
        last: StepStruct = self._s.steps[gpu][self._s.gpus[gpu].step_count - 1]
        return last

    def _append(self, gpu: int, power_mw: int, at_ns: int | None) -> int:
        g, t_ns = self._s.gpus[gpu], self.now_ns() if at_ns is None else at_ns
        if t_ns < self._last(gpu).t_ns:
            raise ValueError(f"GPU {gpu}: the power curve already goes beyond {t_ns} ns")
        if power_mw < 0 or g.step_count == LIMITS["MAX_STEPS"]:
            raise ValueError(f"GPU {gpu}: {power_mw} mW, or its power curve is full")
        uj, pj = divmod(self._energy_pj(gpu, t_ns), _PJ_PER_UJ)
        self._s.steps[gpu][g.step_count] = StepStruct(t_ns, power_mw, uj, pj)
        g.step_count += 1
        return t_ns

    def _step_at(self, gpu: int, t_ns: int) -> StepStruct | None:
        steps = self._s.steps[gpu]
        low, high = 0, int(self._s.gpus[gpu].step_count)
        while low < high:
            middle = (low + high) // 2
            if steps[middle].t_ns <= t_ns:
                low = middle + 1
            else:
                high = middle
        return steps[low - 1] if low else None

    def _energy_pj(self, gpu: int, t_ns: int) -> int:
        s = self._step_at(gpu, t_ns)
        if s is None:
            return 0
        return int(s.energy_uj * _PJ_PER_UJ + s.remainder_pj + s.power_mw * (t_ns - s.t_ns))

    def _tick_ns(self, gpu: int, k: int) -> int:
        g = self._s.gpus[gpu]
        jitter = _mix64((g.tick_seed + k) & _MASK) % (2 * g.tick_jitter_ns + 1) - g.tick_jitter_ns
        return int(g.tick_phase_ns + k * g.tick_period_ns + jitter)

    # ---- state -----------------------------------------------------------------------------------

    def set(self, gpu: int, **values: int) -> None:
        """Set numbers of the GPU by the names in `Gpu` (`temperature_c=60`, `minor=3`, ...)."""
        with self._writing():
            for name, value in values.items():
                if name not in (*COPIED, "minor"):
                    raise ValueError(f"{name} cannot be set")
                setattr(self._s.gpus[gpu], name, int(value))

    def set_utilisation(
        self, gpu: int, *, gpu_pct: int = 0, memory_pct: int = 0, encoder_pct: int = 0,
        decoder_pct: int = 0,
    ) -> None:  # fmt: skip
        """Set the utilisation in percent; `gpu_pct` also feeds the card's GPM SM utilisation."""
        with self._writing():
            g = self._s.gpus[gpu]
            g.gpu_pct, g.memory_pct = gpu_pct, memory_pct
            g.encoder_pct, g.decoder_pct = encoder_pct, decoder_pct
            for metric in (1, 2):  # graphics and SM utilisation
                self._set_rate(g.gpm[metric], gpu_pct)

    def set_event_reasons(self, gpu: int, mask: int) -> None:
        """Set the bitmask of current clock-event (throttle) reasons."""
        with self._writing():
            self._s.gpus[gpu].event_reasons = mask

    def throttle(self, gpu: int, field: int, active: bool) -> None:
        """Start or stop the cumulative ns counter `field` (one of `EVENT_FIELDS`)."""
        with self._writing():
            self._set_rate(self._s.gpus[gpu].events[EVENT_FIELDS.index(field)], int(active))

    def _set_rate(self, meter: MeterStruct, rate: int) -> None:
        now = self.now_ns()
        meter.total += meter.rate * (now - meter.since_ns)
        meter.since_ns, meter.rate = now, rate

    # ---- processes -------------------------------------------------------------------------------

    def set_process(self, gpu: int, process: Process) -> None:
        """Add the process, or change the one with its pid."""
        with self._writing():
            entries = self._s.gpus[gpu].processes
            same = [e for e in entries if e.pid == process.pid]
            free = [e for e in entries if e.pid == 0]
            if not same and not free:
                raise ValueError(f"GPU {gpu}: the process list is full")
            entry = (same or free)[0]
            for field in fields(process):
                setattr(entry, field.name, int(getattr(process, field.name)))

    def remove_process(self, gpu: int, pid: int) -> None:
        """Take the process off the GPU."""
        with self._writing():
            entry = next((e for e in self._s.gpus[gpu].processes if e.pid == pid), None)
            if entry is None:
                raise ValueError(f"GPU {gpu}: no process {pid}")
            entry.pid = 0

    def grow_process_list(self, gpu: int, *, times: int = 1) -> None:
        """Let the next `times` filled process lists have outgrown the caller's buffer."""
        with self._writing():
            self._s.gpus[gpu].failing_fills = times

    # ---- MIG -------------------------------------------------------------------------------------

    def set_mig_mode(self, gpu: int, enabled: bool, *, pending: bool | None = None) -> None:
        """Switch MIG; with `pending` different from `enabled` a reset is still due."""
        with self._writing():
            g = self._s.gpus[gpu]
            g.mig_mode = enabled
            g.mig_pending = enabled if pending is None else pending
            if not enabled:
                for entry in g.instances:
                    entry.serial = 0

    def create_instance(self, gpu: int, instance: Instance) -> int:
        """Create a MIG device and return its index among the GPU's MIG devices."""
        with self._writing():
            g = self._s.gpus[gpu]
            slots = range(g.max_instances)
            free = next((i for i in slots if g.instances[i].serial == 0), None)
            if not g.mig_mode or free is None:
                raise ValueError(f"GPU {gpu}: MIG is off, or there is no room")
            entry = g.instances[free]
            entry.uuid, entry.profile = instance.uuid.encode(), instance.profile.encode()
            for name in ("gpu_instance", "compute_instance", "gpu_slices", "compute_slices",
                         "sm_count", "memory_mib"):  # fmt: skip
                setattr(entry, name, getattr(instance, name))
            entry.sm = MeterStruct(0, self.now_ns(), 0)
            g.last_serial += 1  # never reused: a handle of the slot's last instance stays dead
            entry.serial = g.last_serial
        return free

    def destroy_instance(self, gpu: int, index: int) -> None:
        """Destroy a MIG device; its handles are invalid from now on."""
        with self._writing():
            self._s.gpus[gpu].instances[index].serial = 0

    def set_instance_activity(self, gpu: int, index: int, sm_pct: int) -> None:
        """Set the SM utilisation of a MIG device, in percent of its own SMs."""
        with self._writing():
            self._set_rate(self._s.gpus[gpu].instances[index].sm, sm_pct)

    # ---- health ----------------------------------------------------------------------------------

    def set_figure(self, gpu: int, field_id: int, value: int, *, is_32_bits: bool = False) -> None:
        """Set the value of a field, new or known; 32 bits wide where the driver says so."""
        with self._writing():
            figures = self._s.gpus[gpu].figures
            found = next((f for f in figures if f.field in (field_id, 0)), None)
            if found is None:
                raise ValueError("too many figures")
            found.field, found.value, found.is_32_bits = field_id, value, is_32_bits

    def set_gpm(self, gpu: int, **rates: int) -> None:
        """Set GPM metrics by id (`m5=40`: tensor 40 %; of traffic MiB/s) from now on."""
        with self._writing():
            for name, rate in rates.items():
                self._set_rate(self._s.gpus[gpu].gpm[int(name.removeprefix("m"))], rate)

    def raise_xid(self, gpu: int, xid: int) -> None:
        """Let an Xid happen."""
        with self._writing():
            g = self._s.gpus[gpu]
            g.xids[g.xid_count % LIMITS["MAX_XIDS"]] = xid
            g.xid_count += 1

    # ---- faults ----------------------------------------------------------------------------------

    def inject(
        self, function: str, code: int, *, gpu: int | None = None, count: int | None = None
    ) -> int:
        """Let `function` (or "*", or "field.83") return `code`, `count` times or until cleared.

        Without `gpu` every call is met. Returns an id for `clear`.
        """
        return self._fault(function, code, gpu, count, hang_ms=0)

    def hang(
        self, function: str, *, gpu: int | None = None, for_ms: int | None = None,
        count: int | None = None, code: int = 0,
    ) -> int:  # fmt: skip
        """Let `function` sleep `for_ms` (default: until cleared), then answer (or fail)."""
        return self._fault(function, code, gpu, count, hang_ms=-1 if for_ms is None else for_ms)

    def _fault(
        self, function: str, code: int, gpu: int | None, count: int | None, *, hang_ms: int
    ) -> int:
        if function not in (*FUNCTIONS, "*") and not re.fullmatch(r"field\.\d+", function):
            raise ValueError(f"no function {function}")
        with self._writing():
            faults = self._s.faults
            spent = (f for f in faults if f.id == 0 or (f.remaining == 0 and not f.hang_ms))
            free = next(spent, None)
            if free is None:
                raise ValueError("too many faults")
            self._s.last_fault += 1
            fault_id = int(self._s.last_fault)
            free.id = 0
            free.function, free.code = function.encode(), code
            free.gpu = -1 if gpu is None else gpu
            free.remaining = -1 if count is None else count
            free.hang_ms = hang_ms
            free.id = fault_id
        return fault_id

    def clear(self, fault_id: int | None = None) -> None:
        """End one fault (default: all); calls that hang in it go on."""
        with self._writing():
            for fault in self._s.faults:
                if fault_id in (None, fault.id):
                    fault.id = 0

    # ---- calls -----------------------------------------------------------------------------------

    def calls(self) -> dict[str, int]:
        """Return how often each function was called, by all processes; zeros are left out."""
        counts = zip(FUNCTIONS, self._s.calls, strict=False)
        return {name: int(count) for name, count in counts if count}

    def reset_calls(self) -> None:
        """Start counting calls again."""
        with self._writing():
            for i in range(len(FUNCTIONS)):
                self._s.calls[i] = 0


def _mix64(x: int) -> int:
    """Splitmix64, as in scenario.h."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
