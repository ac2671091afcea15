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

from joulebook.core.devices import DeviceStatus
from joulebook.core.readings import Meter

_BRACKETS = re.compile(r"^([^\[\],]*)\[([\d,-]+)\]([^\[\],]*)$")
_TRAILING_NUMBER = re.compile(r"(\d+)$")
_SLURMD_G = re.compile(
    r"Gres Name=(?P<name>\S+)\s.*?Count=(?P<count>\d+)(?:.*?\sFile=(?P<file>\S+))?"
)
_NODE_GPUS = re.compile(r"\bgpu(?::[^:,\s()]+)?:(\d+)", re.IGNORECASE)
_MAX_EXPANSION = 4096


class Position(NamedTuple):
    """One GPU of gres.conf: its device file, and its shards (0: it is not shared out)."""

    file: str
    shards: int = 0


class Part(NamedTuple):
    """What an id of SLURM's came to: a meter, and the part of it that one such id is."""

    meter: Meter
    parts: int = 1
    of: int = 1


class GresMap(msgspec.Struct, frozen=True):
    """The GPUs of one node in SLURM's order. Empty: the node has none."""

    positions: tuple[Position, ...]

    @property
    def sharded(self) -> bool:
        """Whether several jobs may hold one GPU by shards."""
        return any(p.shards for p in self.positions)

    def shards(self, gpu: str) -> int:
        """How many shards the GPU at a position has (0: not shared, or no such position)."""
        at = int(gpu) if gpu.isdecimal() else len(self.positions)
        return self.positions[at].shards if at < len(self.positions) else 0


class Unmappable(Exception):
    """It cannot be told which device an id means, though there may be one."""


def find_part(
    gpu: str, gpu_ids: str, gres: GresMap | None, devices: Sequence[DeviceStatus]
) -> Part | None:
    """The meter that one GPU id of a job means; `None` if that device cannot be metered.

    `gpu_ids` is `gres`, `minor` or `uuid`; an id that looks like a UUID is one whatever it says.
    Raises `Unmappable` where only somebody can be booked (`unknown_holder`).
    """
    if not gpu.isdecimal():
        for device in devices:
            if device.meter.name == gpu:
                return Part(device.meter)
        if gpu.startswith("MIG-"):
            raise Unmappable(gpu)
        return None
    if gpu_ids == "minor":
        return _by_minor(int(gpu), devices)
    if gres is None or int(gpu) >= len(gres.positions):
        raise Unmappable(gpu)
    file = gres.positions[int(gpu)].file
    if (card := _by_file(file, devices)) is not None:
        return card
    minor = minor_of(file)
    if minor is None:
        return None
    found = _by_minor(minor, devices)
    # MIG: several positions are instances of one card (MultipleFiles begins with the card).
    same = sum(p.file == file for p in gres.positions)
    return found if found is None or same == 1 else Part(found.meter, 1, same)


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
        if "multiplefiles" in keys:
            # All AMD cards come with /dev/kfd, which is no card's own.
            files_of_one = (f for f in expand(keys["multiplefiles"]) if f != "/dev/kfd")
            listed = tuple(files_of_one)[:1]
        count = _count(keys.get("count", ""))
        if name == "gpu":
            if not listed:
                return None
            files += listed
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
    return GresMap(tuple(Position(f, shard_files.get(f, 0)) for f in files))


def parse_slurmd_g(text: str) -> GresMap | None:
    """The GPUs of this node as `slurmd -G` prints them; `None` if it names no device files."""
    files: list[str] = []
    shards: dict[str, int] = {}
    for found in _SLURMD_G.finditer(text):
        name, file = found["name"], found["file"]
        if name not in {"gpu", "shard"}:
            continue
        if file is None or file == "(null)":
            return None
        listed = expand(file)
        if name == "gpu":
            files += listed[:1] if int(found["count"]) == 1 else listed
        else:
            for each in listed:
                shards[each] = int(found["count"]) // len(listed)
    return GresMap(tuple(Position(f, shards.get(f, 0)) for f in files)) if files else None


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
) -> GresMap | None:
    """The GPUs of `node`: gres.conf (beside `conf`, slurm.conf), else `slurmd -G` (if given).

    May take `timeout_s`. `None` if nobody says for certain, also where slurmd finds fewer GPUs
    than slurm.conf promises: a card was pulled, and the running slurmd still counts it.
    """
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
