"""Which GPUs a node has, in which order: as gres.conf says, or `slurmd -G` where that does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from joulebook.node.workloads.slurm.gres import (
    MIG_MINORS,
    GresMap,
    Position,
    capabilities,
    read_minors,
)
from joulebook.node.workloads.slurm.hostlist import expand

_DEFAULT_CONFS = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)


def find_slurm_conf() -> Path:
    """Where slurm.conf is by SLURM's own rules (the file need not exist: configless)."""
    named = os.environ.get("SLURM_CONF")
    if named:
        return Path(named)
    return next((Path(c) for c in _DEFAULT_CONFS if Path(c).exists()), Path(_DEFAULT_CONFS[0]))


def find_program(name: str) -> str:
    """An absolute path for a program of SLURM's, or empty; services often lack sbin in PATH."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin",
                            "/opt/slurm/bin", "/opt/slurm/sbin"))  # fmt: skip
    return shutil.which(name, path=path) or ""


class GresMaps:
    """`of(node)` never waits: `slurmd -G` runs in a thread, and `changed` is called after it."""

    def __init__(
        self, conf: Path, gres_conf: Path | None = None, *, slurmd: str, timeout_s: float = 5.0
    ) -> None:
        self._conf = conf
        self._gres_conf = conf.with_name("gres.conf") if gres_conf is None else gres_conf
        self._slurmd = slurmd
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._known: dict[str, GresMap | None] = {}
        self._loading: set[str] = set()
        self._stamp = self._stat()
        self.changed: Callable[[], None] = lambda: None

    @property
    def places(self) -> str:
        """Where the order of GPUs is looked for, in words."""
        asked = f"{self._slurmd} -G" if self._slurmd else "slurmd -G (there is no slurmd here)"
        return f"{self._gres_conf} nor {asked}"

    def of(self, node: str) -> tuple[bool, GresMap | None]:
        """Whether it is known by now, and the GPUs of a node (`None`: nobody can say)."""
        with self._lock:
            if node in self._known:
                return True, self._known[node]
            if node in self._loading:
                return False, None
        gres = load_gres(node, self._conf, self._gres_conf)
        with self._lock:
            if gres is not None or not self._slurmd:
                self._known[node] = gres
                return True, gres
            self._loading.add(node)
        threading.Thread(target=self._ask, args=(node,), name="slurmd-g", daemon=True).start()
        return False, None

    def refresh(self) -> None:
        """Forget what was read if gres.conf is another one now."""
        stamp = self._stat()
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                self._known.clear()

    def _ask(self, node: str) -> None:
        gres = load_gres(
            node, self._conf, self._gres_conf, slurmd=self._slurmd, timeout_s=self._timeout_s
        )
        with self._lock:
            self._known[node] = gres
            self._loading.discard(node)
        self.changed()

    def _stat(self) -> tuple[int, int]:
        try:
            seen = self._gres_conf.stat()
        except OSError:
            return (0, 0)
        return (seen.st_ino, seen.st_mtime_ns)


_SLURMD_G = re.compile(
    r"Gres Name=(?P<name>\S+)\s.*?Count=(?P<count>\d+)(?:.*?\sFile=(?P<file>\S+))?"
)
_NODE_GPUS = re.compile(r"\bgpu(?::[^:,\s()]+)?:(\d+)", re.IGNORECASE)


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
