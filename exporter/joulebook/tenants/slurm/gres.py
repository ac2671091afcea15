"""From the numbers that SLURM gives GPUs to meters: position -> device file -> minor -> UUID.

`SLURM_JOB_GPUS` and `IDX` count the GPU lines of gres.conf as slurmd understood them. That is
neither the number in /dev/nvidiaN (the order of lines is free, and there may be holes) nor NVML's
index. Where gres.conf names the device files it is read here; where it leaves that to
`AutoDetect`, `slurmd -G` says what slurmd finds.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.devices import DeviceStatus, Instance
from joulebook.core.readings import Meter
from joulebook.tenants.slurm.gresmig import (
    MIG_MINORS,
    Capability,
    capabilities,
    of_capabilities,
    on_gi,
    read_minors,
)

_BRACKETS = re.compile(r"^([^\[\],]*)\[([\d,-]+)\]([^\[\],]*)$")
_TRAILING_NUMBER = re.compile(r"(\d+)$")
_SLURMD_G = re.compile(
    r"Gres Name=(?P<name>\S+)\s.*?Count=(?P<count>\d+)(?:.*?\sFile=(?P<file>\S+))?"
)
_NODE_GPUS = re.compile(r"\bgpu(?::[^:,\s()]+)?:(\d+)", re.IGNORECASE)
_MAX_EXPANSION = 4096


class Position(NamedTuple):
    """One GPU of gres.conf: its device file, and its shards (0: it is not shared out).

    Of a MIG instance also the capability files that a job needs of it, by minor number.
    """

    file: str
    shards: int = 0
    caps: tuple[int, ...] = ()


class Part(NamedTuple):
    """What an id of SLURM's came to: a meter, and the part of it that one such id is."""

    meter: Meter
    parts: int = 1
    of: int = 1
    instance: str = ""


class GresMap(msgspec.Struct, frozen=True):
    """The GPUs of one node in SLURM's order. Empty: the node has none."""

    positions: tuple[Position, ...]
    minors: Mapping[int, Capability] = {}
    """What the capability files of MIG instances are of."""

    @property
    def sharded(self) -> bool:
        """Whether several jobs may hold one GPU by shards."""
        return any(p.shards for p in self.positions)

    def shards(self, gpu: str) -> int:
        """How many shards the GPU at a position has (0: not shared, or no such position)."""
        at = int(gpu) if gpu.isdecimal() else len(self.positions)
        return self.positions[at].shards if at < len(self.positions) else 0


class Unmappable(Exception):
    """It cannot be told which device an id means, though there may be one.

    `meter` is the card of which it is an instance, where that much is known.
    """

    def __init__(self, gpu: str, meter: Meter | None = None) -> None:
        super().__init__(gpu)
        self.meter = meter


def find_part(
    gpu: str, gpu_ids: str, gres: GresMap | None, devices: Sequence[DeviceStatus]
) -> Part | None:
    """The meter that one GPU id of a job means; `None` if that device cannot be metered.

    `gpu_ids` is `gres`, `minor` or `uuid`; an id that looks like a UUID is one whatever it says.
    Raises `Unmappable` where only somebody can be booked (`unknown_holder`).
    """
    if gpu_ids == "nvml" and gpu[:1].isdecimal():
        return _by_index(gpu, devices)
    if not gpu.isdecimal():
        for device in devices:
            if device.meter.name == gpu:
                return Part(device.meter)
            instance = device.instance(gpu)
            if instance is not None:
                return _instance(device, instance)
        if gpu.startswith("MIG-"):
            raise Unmappable(gpu)
        return None
    if gpu_ids == "minor":
        return _by_minor(int(gpu), devices)
    if gres is None or int(gpu) >= len(gres.positions):
        raise Unmappable(gpu)
    position = gres.positions[int(gpu)]
    if (card := _by_file(position.file, devices)) is not None:
        return card
    minor = minor_of(position.file)
    found = None if minor is None else _by_minor(minor, devices)
    if position.caps:
        one = of_capabilities(position.caps, gres.minors, devices)
        if one is None:
            raise Unmappable(gpu, found.meter if found is not None else None)
        return _instance(*one)
    if found is not None and sum(p.file == position.file for p in gres.positions) > 1:
        raise Unmappable(gpu, found.meter)  # instances that nothing tells apart
    return found


def _instance(device: DeviceStatus, instance: Instance) -> Part:
    return Part(device.meter, instance.slices, max(device.slices, instance.slices), instance.uuid)


def _by_index(gpu: str, devices: Sequence[DeviceStatus]) -> Part | None:
    """NVML's index, with the id of a GPU instance after a dot (dcgm-exporter's files)."""
    index, _, gi = gpu.partition(".")
    device = next((d for d in devices if d.index == int(index)), None)
    if device is None or not gi:
        return None if device is None else Part(device.meter)
    instance = on_gi(device, int(gi))
    if instance is None:
        raise Unmappable(gpu, device.meter)
    return _instance(device, instance)


def minor_of(file: str) -> int | None:
    """The minor number of a device file; by its name where the file is not to be seen from here."""
    try:
        seen = Path(file).stat()
    except OSError:
        # In a container without the host's /dev; a card that was pulled has no meter either way.
        number = _TRAILING_NUMBER.search(file)
        return int(number[1]) if number else None
    return os.minor(seen.st_rdev) if stat.S_ISCHR(seen.st_mode) else None


def _by_file(file: str, devices: Sequence[DeviceStatus]) -> Part | None:
    """The card of AMD or Intel with that device file; minors of /dev/dri mean nothing of NVIDIA."""
    for device in devices:
        if any(file.endswith(f"/{each}") for each in device.files):
            return Part(device.meter)
    return None


def _by_minor(minor: int, devices: Sequence[DeviceStatus]) -> Part | None:
    for device in devices:
        if device.minor == minor:
            return Part(device.meter)
    return None


def expand(hostlist: str) -> tuple[str, ...]:
    """The names of a SLURM host or file list: `n[1-3,07],login` -> n1 n2 n3 n07 login."""
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        found = _BRACKETS.match(item)
        if found is None:
            names.append(item)
            continue
        for part in found[2].split(","):
            first, _, last = part.partition("-")
            if not first.isdecimal() or (last and not last.isdecimal()):
                continue
            end = int(last or first)
            for number in range(int(first), min(end, int(first) + _MAX_EXPANSION) + 1):
                names.append(f"{found[1]}{number:0{len(first)}d}{found[3]}")
    return tuple(names)


def parse_gres_conf(text: str, node: str) -> GresMap | None:
    """The GPUs of `node` as gres.conf lists them.

    `None` where gres.conf alone does not tell: AutoDetect, an Include, GPUs without a File.
    """
    files: list[str] = []
    caps: list[tuple[int, ...]] = []
    shard_files: dict[str, int] = {}
    shards_anywhere = 0
    autodetect = ""
    node_autodetect: str | None = None
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0].lower() == "include":
            return None
        keys = {k.lower(): v.strip('"') for k, _, v in (w.partition("=") for w in words)}
        if "nodename" in keys and node not in expand(keys["nodename"]):
            continue
        if "autodetect" in keys:
            if "nodename" in keys:
                node_autodetect = keys["autodetect"].lower()
            else:
                autodetect = keys["autodetect"].lower()
        name = keys.get("name", "").lower()
        listed = expand(keys.get("file", ""))
        needed: tuple[int, ...] = ()
        if "multiplefiles" in keys:
            # All AMD cards come with /dev/kfd, which is no card's own.
            together = [f for f in expand(keys["multiplefiles"]) if f != "/dev/kfd"]
            listed, needed = tuple(together[:1]), capabilities(together)
        count = _count(keys.get("count", ""))
        if name == "gpu":
            if not listed:
                return None
            files += listed
            caps += [needed or capabilities([file]) for file in listed]
        elif name == "shard" and listed:
            for file in listed:
                shard_files[file] = (count or len(listed)) // len(listed)
        elif name == "shard":
            shards_anywhere += count
    if (autodetect if node_autodetect is None else node_autodetect) not in {"", "off"}:
        return None
    if shards_anywhere and files:
        if shards_anywhere % len(files):
            return None
        shard_files = dict.fromkeys(files, shards_anywhere // len(files))
    return GresMap(
        tuple(Position(f, shard_files.get(f, 0), c) for f, c in zip(files, caps, strict=True))
    )


def parse_slurmd_g(text: str) -> GresMap | None:
    """The GPUs of this node as `slurmd -G` prints them; `None` if it names no device files."""
    files: list[str] = []
    caps: list[tuple[int, ...]] = []
    shards: dict[str, int] = {}
    for found in _SLURMD_G.finditer(text):
        name, file = found["name"], found["file"]
        if name not in {"gpu", "shard"}:
            continue
        if file is None or file == "(null)":
            return None
        listed = expand(file)
        if name == "gpu":
            one = int(found["count"]) == 1
            files += listed[:1] if one else listed
            caps += [capabilities(listed)] if one else [()] * len(listed)
        else:
            for each in listed:
                shards[each] = int(found["count"]) // len(listed)
    if not files:
        return None
    return GresMap(
        tuple(Position(f, shards.get(f, 0), c) for f, c in zip(files, caps, strict=True))
    )


def configured_gpus(slurm_conf: str, node: str) -> int | None:
    """How many GPUs slurm.conf says that `node` has; `None` if its line is not in there."""
    for line in slurm_conf.replace("\\\n", " ").splitlines():
        words = line.split("#", 1)[0].split()
        keys = {k.lower(): v for k, _, v in (w.partition("=") for w in words)}
        if "gres" in keys and node in expand(keys.get("nodename", "")):
            return sum(int(n) for n in _NODE_GPUS.findall(keys["gres"]))
    return None


def load_gres(
    node: str,
    conf: Path,
    gres_conf: Path | None = None,
    *,
    slurmd: str = "",
    timeout_s: float = 5.0,
    mig_minors: Path = MIG_MINORS,
) -> GresMap | None:
    """The GPUs of `node`: gres.conf (beside `conf`, slurm.conf), else `slurmd -G` (if given).

    May take `timeout_s`. `None` if nobody says for certain, also where slurmd finds fewer GPUs
    than slurm.conf promises: a card was pulled, and the running slurmd still counts it.
    """
    gres = _load(node, conf, gres_conf, slurmd=slurmd, timeout_s=timeout_s)
    if gres is None or not any(position.caps for position in gres.positions):
        return gres
    return msgspec.structs.replace(gres, minors=read_minors(mig_minors))


def _load(
    node: str, conf: Path, gres_conf: Path | None, *, slurmd: str, timeout_s: float
) -> GresMap | None:
    listed = conf.with_name("gres.conf") if gres_conf is None else gres_conf
    try:
        gres = parse_gres_conf(listed.read_text(errors="replace"), node)
    except OSError:
        gres = None
    if gres is not None or not slurmd:
        return gres
    environment: Mapping[str, str] = {**os.environ, "SLURM_CONF": str(conf)}
    try:
        done = subprocess.run(
            [slurmd, "-G", "-N", node],
            env=environment if conf.exists() else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    gres = parse_slurmd_g(done.stdout.decode("utf-8", "replace"))
    try:
        promised = configured_gpus(conf.read_text(errors="replace"), node)
    except OSError:
        promised = None
    if gres is not None and promised is not None and len(gres.positions) < promised:
        return None
    return gres


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text, re.IGNORECASE)
    if found is None:
        return 0
    return int(found[1]) * {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[found[2].lower()]
