"""Find a node's GPUs and their order from gres.conf, or else `slurmd -G`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.evidence import counted
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
    """Return where slurm.conf is by SLURM's own rules (the file need not exist: configless)."""
    named = os.environ.get("SLURM_CONF")
    if named:
        return Path(named)
    return next((Path(c) for c in _DEFAULT_CONFS if Path(c).exists()), Path(_DEFAULT_CONFS[0]))


def find_program(name: str) -> str:
    """An absolute path for a program of SLURM's, or empty; services often lack sbin in PATH."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin",
                            "/opt/slurm/bin", "/opt/slurm/sbin"))  # fmt: skip
    return shutil.which(name, path=path) or ""


_SLURMD_G = re.compile(
    r"Gres Name=(?P<name>\S+)\s.*?Count=(?P<count>\d+)(?:.*?\sFile=(?P<file>\S+))?"
)
_DEEPEST = 4


class Promise(NamedTuple):
    """So many GPUs of a type (lower case; empty: of any)."""

    type: str
    gpus: int


class _Line(NamedTuple):
    type: str
    file: str
    caps: tuple[int, ...]


def parse_gres_conf(
    text: str, node: str, promised: Sequence[Promise] | None = None
) -> GresMap | None:
    """Return the GPUs of `node` as gres.conf lists them, in the order in which slurmd counts them.

    That is type by type as slurm.conf promises them; what it does not promise is not counted.
    `None` where the two files do not tell: AutoDetect, an Include, GPUs without a File, several
    types whose order is not known.
    """
    lines = [_keys(line) for line in _lines(text)]
    lines = [k for k in lines if "nodename" not in k or node in expand(k["nodename"])]
    if any("include" in keys for keys in lines) or _detects(lines):
        return None
    gpus: list[_Line] = []
    shard_files: dict[str, int] = {}
    shards_anywhere = 0
    for keys in lines:
        name = keys.get("name", "").lower()
        listed, needed = _files(keys)
        if name == "gpu":
            if not listed:
                return None
            kind = keys.get("type", "").lower()
            gpus += [_Line(kind, file, needed or capabilities([file])) for file in listed]
        elif name == "shard":
            count = _count(keys.get("count", ""))
            shards_anywhere += 0 if listed else count
            for file in listed:
                shard_files[file] = (count or len(listed)) // len(listed)
    ordered = _in_order(gpus, promised)
    if ordered is None:
        return None
    if shards_anywhere and ordered:
        if shards_anywhere % len(ordered):
            return None
        shard_files = {gpu.file: shards_anywhere // len(ordered) for gpu in ordered}
    return GresMap(
        tuple(Position(gpu.file, shard_files.get(gpu.file, 0), gpu.caps) for gpu in ordered)
    )


def _keys(line: str) -> dict[str, str]:
    """The keys of a line in lower case, and their values; a word alone is a key with none."""
    pairs = (word.partition("=") for word in line.split())
    return {key.lower(): value.strip('"') for key, _, value in pairs}


def _detects(lines: Sequence[Mapping[str, str]]) -> bool:
    """Return whether slurmd detects GPUs by itself; settings of this node take precedence."""
    said = [keys for keys in lines if "autodetect" in keys]
    own = [keys for keys in said if "nodename" in keys]
    return any(keys["autodetect"].lower() not in {"", "off"} for keys in (own or said)[-1:])


def _files(keys: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The device files of a line, and the capabilities that each of them needs."""
    if "multiplefiles" not in keys:
        return expand(keys.get("file", "")), ()
    # All AMD cards come with /dev/kfd, which is no card's own.
    together = [file for file in expand(keys["multiplefiles"]) if file != "/dev/kfd"]
    return tuple(together[:1]), capabilities(together)


def _in_order(gpus: Sequence[_Line], promised: Sequence[Promise] | None) -> list[_Line] | None:
    types = {gpu.type for gpu in gpus}
    if promised is None:
        return list(gpus) if len(types) <= 1 else None
    if any(each.type and each.type not in types for each in promised) and types:
        return None  # Of types that only slurm.conf knows slurmd finds none.
    ordered: list[_Line] = []
    for each in promised:
        left = [g for g in gpus if g not in ordered and (not each.type or g.type == each.type)]
        ordered += left[: each.gpus]
    return ordered


def parse_slurmd_g(text: str) -> GresMap | None:
    """Return the GPUs of this node from `slurmd -G`; `None` if it has no device files."""
    files: list[str] = []
    caps: list[tuple[int, ...]] = []
    shards: dict[str, int] = {}
    for found in _SLURMD_G.finditer(text):
        name, file = found["name"].lower(), found["file"]
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


def promised_gpus(slurm_conf: str, node: str) -> tuple[Promise, ...] | None:
    """Return the GPUs of `node` in slurm.conf, in order; `None` if it has no such node."""
    default = ""
    for line in _lines(slurm_conf):
        keys = {k.lower(): v.strip('"') for k, _, v in (w.partition("=") for w in line.split())}
        names = keys.get("nodename", "")
        if names.upper() == "DEFAULT":
            default = keys.get("gres", default)
        elif names and node in expand(names):
            gres = keys.get("gres", default)
            # A type that comes again is counted where it came first.
            return tuple(Promise(*each) for each in counted(_promises(gres)).items())
    return None


def _promises(gres: str) -> Iterator[tuple[str, int]]:
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = item.strip().lower().split(":")
        if name == "gpu":
            count = rest.pop() if rest and rest[-1].isdecimal() else "1"
            yield rest[0] if rest else "", _count(count)


def read_conf(path: Path, depth: int = 0) -> str:
    """slurm.conf with what it includes. Raises `OSError`."""
    text = path.read_text(errors="replace")
    if depth >= _DEEPEST:
        return text

    def included(found: re.Match[str]) -> str:
        return read_conf(path.parent / found[1].strip(), depth + 1)  # An absolute name stays.

    return re.sub(r"^\s*include\s+(.+)$", included, text, flags=re.IGNORECASE | re.MULTILINE)


def _lines(text: str) -> Iterator[str]:
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.split("#", 1)[0].strip()
        if line:
            yield line


def load_gres(
    node: str,
    conf: Path,
    gres_conf: Path | None = None,
    *,
    slurmd: str = "",
    timeout_s: float = 5.0,
    mig_minors: Path = MIG_MINORS,
) -> GresMap | None:
    """Return the GPUs of `node` from gres.conf (next to `conf`), else `slurmd -G` (if given).

    May take `timeout_s`. `None` if uncertain, also if slurmd finds fewer GPUs than in slurm.conf: a
    card was removed, and the running slurmd still counts it.
    """
    gres = _load(node, conf, gres_conf, slurmd=slurmd, timeout_s=timeout_s)
    if gres is None or not any(position.caps for position in gres.positions):
        return gres
    return msgspec.structs.replace(gres, minors=read_minors(mig_minors))


def _load(
    node: str, conf: Path, gres_conf: Path | None, *, slurmd: str, timeout_s: float
) -> GresMap | None:
    try:
        promised = promised_gpus(read_conf(conf), node)
    except OSError:
        promised = None
    listed = conf.with_name("gres.conf") if gres_conf is None else gres_conf
    try:
        gres = parse_gres_conf(listed.read_text(errors="replace"), node, promised)
    except OSError:
        gres = None
    types = len(promised or ())
    if not slurmd or (gres is not None and types <= 1):
        return gres
    asked = _ask_slurmd(slurmd, node, conf, timeout_s)
    if asked is None or (
        promised is not None and len(asked.positions) < sum(each.gpus for each in promised)
    ):
        return gres
    return asked


def _ask_slurmd(slurmd: str, node: str, conf: Path, timeout_s: float) -> GresMap | None:
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
    return parse_slurmd_g(done.stdout.decode("utf-8", "replace"))


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text, re.IGNORECASE)
    if found is None:
        return 0
    return int(found[1]) * {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[found[2].lower()]
