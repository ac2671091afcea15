"""Trees of sysfs and procfs as real machines have them, made file by file below a directory.

Each `Machine` method puts one piece of hardware in; names and contents are those that the kernel's
drivers give. What is inside may then be moved on with `set`. Recorded shapes of whole machines
are in `shapes.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path


class Machine:
    """A machine's `/sys` and `/proc` below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.powercap = root / "sys/class/powercap"
        self.hwmon = root / "sys/class/hwmon"
        self.drm = root / "sys/class/drm"
        self.proc = root / "proc"
        for directory in (self.powercap, self.hwmon, self.drm, self.proc):
            directory.mkdir(parents=True)
        self._chips = 0
        self.cpu_time(cores=8, busy_ns=0)
        self.memory(installed=64 << 30, anonymous=4 << 30)

    # -- procfs

    def cpu_time(self, *, cores: int, busy_ns: int) -> None:
        """/proc/stat with so much CPU time."""
        put(self.proc / "stat", self.stat(cores=cores, busy_ns=busy_ns))

    @staticmethod
    def stat(*, cores: int, busy_ns: int) -> str:
        """What /proc/stat says of so much CPU time, all of it in user mode."""
        ticks = busy_ns // 10_000_000
        lines = [f"cpu  {ticks} 0 0 0 0 0 0 0 0 0"]
        lines += [f"cpu{n} {ticks // cores} 0 0 0 0 0 0 0 0 0" for n in range(cores)]
        return "\n".join([*lines, "intr 1 0", "ctxt 1"])

    def memory(self, *, installed: int, anonymous: int, shared: int = 0) -> None:
        """/proc/meminfo, in bytes."""
        kib = {"MemTotal": installed, "MemFree": 0, "AnonPages": anonymous, "Shmem": shared}
        put(self.proc / "meminfo", "".join(f"{k}:  {v >> 10} kB\n" for k, v in kib.items()))

    # -- powercap

    def zone(
        self,
        zone: str,
        name: str,
        energy_uj: int,
        *,
        range_uj: int = 262_143_328_850,
        max_power_uw: int | None = None,
    ) -> Path:
        """A RAPL zone such as `intel-rapl:0:1`."""
        directory = self.powercap / zone
        put(directory / "name", name)
        put(directory / "energy_uj", str(energy_uj))
        put(directory / "max_energy_range_uj", str(range_uj))
        if max_power_uw is not None:
            put(directory / "constraint_0_name", "long_term")
            put(directory / "constraint_0_max_power_uw", str(max_power_uw))
        return directory

    # -- hwmon

    def chip(self, name: str, **files: object) -> Path:
        """A chip of hwmon with its files."""
        return self._chip(self.hwmon / f"hwmon{self._next()}", name, **files)

    def acpi_meter(self, watts: float, info: str = "") -> Path:
        """An ACPI power meter; `info` is its `power1_oem_info`."""
        files: dict[str, object] = {"power1_average": round(watts * 1e6)}
        files["power1_average_interval"] = 50
        if info:
            files["power1_oem_info"] = info
        return self.chip("power_meter", **files)

    # -- graphics cards

    def amd(
        self,
        number: int,
        pci: str,
        *,
        metrics: bytes | None,
        watts: float,
        busy: int = 0,
        model: str = "AMD Instinct MI300X",
        unique_id: str = "",
    ) -> Path:
        """A card of the amdgpu driver; its device directory."""
        device = self._card(number, pci, "0x1002", "0x74a1", "amdgpu")
        if metrics is not None:
            (device / "gpu_metrics").write_bytes(metrics)
        put(device / "gpu_busy_percent", str(busy))
        put(device / "mem_busy_percent", str(busy // 2))
        put(device / "mem_info_vram_used", str(17 << 30))
        put(device / "mem_info_vram_total", str(192 << 30))
        put(device / "product_name", model)
        if unique_id:
            put(device / "unique_id", unique_id)
        self._chip(
            device / f"hwmon/hwmon{self._next()}",
            "amdgpu",
            power1_input=round(watts * 1e6),
            power1_cap=750_000_000,
            temp2_input=48_000,
            freq1_input=2_100_000_000,
            freq2_input=1_300_000_000,
        )
        return device

    def partition(self, pci: str, renders: Sequence[int], *, function: bool = False) -> None:
        """Cut an AMD card into partitions with these render nodes, of which the first is its own.

        `function`: older kernels number them in the function of the address, not above it.
        """
        domain, bus, device = int(pci[:4], 16), int(pci[5:7], 16), int(pci[8:10], 16)
        for part, render in enumerate(renders):
            location = bus << 8 | device << 3 | (part if function else part << 28)
            put(
                self.root / f"sys/class/kfd/kfd/topology/nodes/{render}/properties",
                f"simd_count 304\nlocation_id {location}\ndomain {domain}\n"
                f"drm_render_minor {render}",
            )
            if part:
                device_dir = self.root / f"sys/devices/platform/amdgpu_xcp_{render}"
                (device_dir / f"drm/renderD{render}").mkdir(parents=True)
                (device_dir / f"drm/card{render - 128}").mkdir()
                for name in (f"renderD{render}", f"card{render - 128}"):
                    (self.drm / name).mkdir(exist_ok=True)
                    (self.drm / name / "device").symlink_to(device_dir)

    def intel(self, number: int, pci: str, *, driver: str, card_uj: int, idle_ms: int) -> Path:
        """A card of the xe or i915 driver; its device directory."""
        device = self._card(number, pci, "0x8086", "0x0bda", driver)
        names: dict[str, object] = {"energy1_input": card_uj, "power1_max": 300_000_000}
        if driver == "xe":
            # The package is a part of the board.
            names |= {
                "energy1_label": "card",
                "energy2_label": "pkg",
                "energy2_input": card_uj // 2,
            }
            put(device / "tile0/gt0/gtidle/idle_residency_ms", str(idle_ms))
            put(device / "tile0/gt0/freq0/act_freq", "1550")
            put(device / "tile0/physical_vram_size_bytes", str(48 << 30))
        else:
            put(device / f"drm/card{number}/gt/gt0/rc6_residency_ms", str(idle_ms))
            put(device / f"drm/card{number}/gt_act_freq_mhz", "2050")
        self._chip(device / f"hwmon/hwmon{self._next()}", driver, **names)
        return device

    def client(
        self, pid: int, pci: str, number: int, engine: str, busy_ns: int, memory: str
    ) -> None:
        """A process with a card open: `engine` is busy so long, `memory` like `vram0: 12 MiB`."""
        directory = self.proc / str(pid)
        put(directory / "stat", f"{pid} (a.out) S " + " ".join(["0"] * 18 + ["4242"] + ["0"] * 20))
        (directory / "fd").mkdir(exist_ok=True)
        link = directory / "fd" / str(number + 3)
        if not link.is_symlink():
            link.symlink_to("/dev/dri/renderD128")
        text = f"pos: 0\ndrm-driver: x\ndrm-client-id: {number}\ndrm-pdev: {pci}\n"
        text += f"drm-engine-{engine}: {busy_ns} ns\ndrm-resident-{memory}\n"
        put(directory / "fdinfo" / str(number + 3), text)

    def _card(self, number: int, pci: str, vendor: str, device_id: str, driver: str) -> Path:
        device = self.root / "sys/devices" / pci
        put(device / "vendor", vendor)
        put(device / "device", device_id)
        put(device / "uevent", f"DRIVER={driver}\nPCI_CLASS=38000\nPCI_SLOT_NAME={pci}\n")
        (device / f"drm/renderD{128 + number}").mkdir(parents=True)
        entry = self.drm / f"card{number}"
        entry.mkdir()
        (entry / "device").symlink_to(device)
        # Outputs of a card look like cards, and are none.
        (self.drm / f"card{number}-DP-1").mkdir()
        return device

    def _chip(self, directory: Path, name: str, **files: object) -> Path:
        put(directory / "name", name)
        for file, value in files.items():
            put(directory / file, str(value))
        return directory

    def _next(self) -> int:
        self._chips += 1
        return self._chips


def put(path: Path, text: str) -> None:
    """Write a file of sysfs: one line, its directory made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else f"{text}\n")


_SIZES = {0: 80, 1: 96, 2: 104, 3: 120, 4: 304, 5: 376, 6: 1664, 7: 2208, 8: 3872}


def gpu_metrics(
    revision: int,
    energy: int,
    *,
    power_w: int = 0,
    gfx: int = 0,
    parts: Sequence[Sequence[int]] = (),
    is_early: bool = False,
) -> bytes:
    """A `gpu_metrics` table of format 1, as amdgpu lays it out; what is not reported is all
    ones. `parts`: the activity of each die of each partition. `is_early`: 1.6 of Linux 6.12.
    """
    size = 384 if is_early else _SIZES[revision]
    table = bytearray(b"\xff" * size)
    struct.pack_into("<HBB", table, 0, size, 1, revision)
    if revision == 0:
        struct.pack_into("<HHHHI", table, 28, gfx, 0, 0, power_w, energy)
    elif revision <= 3:
        struct.pack_into("<HHHHQ", table, 16, gfx, 0, 0, power_w, energy)
    else:
        struct.pack_into("<HHH", table, 10, power_w, gfx, 0)
        offset = 88 if is_early else {4: 24, 5: 88, 6: 16, 7: 24, 8: 24}[revision]
        struct.pack_into("<Q", table, offset, energy)
    if parts:
        begin = {6: 312, 7: 344, 8: 344}[revision]
        struct.pack_into("<H", table, begin - 6, len(parts))
        for part, dies in enumerate(parts):
            place = begin + part * {6: 168, 7: 232, 8: 440}[revision]
            struct.pack_into(f"<{len(dies)}I", table, place, *dies)
    return bytes(table)
