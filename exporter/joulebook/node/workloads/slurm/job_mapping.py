"""Job-mapping directories that a site may already have, as evidence of who holds a GPU.

    dcgm-exporter   `--hpc-job-mapping-dir`: a file for each GPU index (`0`; `0.3` for a GPU
                    instance), one job id a line; some sites write `0` for idle
    Jobstats        `/run/gpustat`: a file for each GPU (its number as SLURM gave it, or its UUID)
                    with "jobid uid"; removed by the Epilog

Read with the same suspicion as the files of our own hooks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from joulebook.core.attribution.claims import Evidence
from joulebook.errors import InputError
from joulebook.node.workloads.host.inotify import Event, FollowedDirectory, Inotify
from joulebook.untrusted_files import open_directory, read, trusted_owners

_GPU_INDEX = re.compile(r"^(\d{1,3})(?:\.(\d{1,3}))?$")
_GPU_UUID = re.compile(r"^(GPU|MIG)-[0-9A-Za-z/-]{8,72}$")
_JOB_ID = re.compile(r"^[1-9][0-9]{0,11}$")
_MAX_BYTES = 16 * 1024
_MAX_JOBS = 64


class Mapped(NamedTuple):
    """One job on one GPU. `index_kind` says what a number counts: `nvml` or `gres`.

    After a dot stands the id of a GPU instance (MIG).
    """

    job_id: str
    gpu: str
    index_kind: str
    parts: int
    of: int
    file: str
    uid: int | None = None
    since_ns: int = 0
    """The file's last change: wall clock, later node time."""


def read_mapping(
    directory: Path, evidence: Evidence, owners: frozenset[int]
) -> tuple[frozenset[Mapped], list[InputError]]:
    """Return the current mappings in a directory, and rejected ones.

    Raises `OSError` where there is no such directory, `InputError` where it cannot be trusted.
    """
    fd = open_directory(directory, owners)
    found: set[Mapped] = set()
    rejected: list[InputError] = []
    try:
        for name in os.listdir(fd):  # noqa: PTH208 (a descriptor: the directory that was checked)
            if _GPU_INDEX.match(name) or _GPU_UUID.match(name):
                try:
                    raw, seen = read(fd, name, _MAX_BYTES, owners)
                    found |= {
                        each._replace(since_ns=seen.st_ctime_ns)
                        for each in parse(name, raw.decode("utf-8", "replace"), evidence)
                    }
                except FileNotFoundError:
                    continue
                except InputError as error:
                    rejected.append(error)
    finally:
        os.close(fd)
    return frozenset(found), rejected


class MappingDirectory(FollowedDirectory):
    """A mapping directory, followed by inotify; read whole after each change (it is small)."""

    def __init__(
        self,
        path: Path,
        evidence: Evidence,
        inotify: Inotify,
        refuse: Callable[[InputError], None],
    ) -> None:
        super().__init__(path, inotify)
        self.evidence = evidence
        self._rejections = refuse
        self._rejected: set[str] = set()
        self.dirty = True

    def changed(self, _event: Event) -> None:
        """See `FollowedDirectory`."""
        self.dirty = True

    def read(self) -> frozenset[Mapped] | None:
        """Return its current mappings; `None` while it cannot be read."""
        self.dirty = False
        try:
            self.follow()
            found, rejected = read_mapping(self._path, self.evidence, trusted_owners())
        except (OSError, InputError) as error:
            found, rejected = None, [error] if isinstance(error, InputError) else []
            self.close()
        for each in rejected:
            if str(each) not in self._rejected:
                self._rejections(each)
        self._rejected = {str(each) for each in rejected}
        return found


def parse(name: str, text: str, evidence: Evidence) -> set[Mapped]:
    """Return the content of one mapping file. Raises `InputError` for a job id that is none."""
    if evidence is Evidence.GPUSTAT:
        words = text.split()
        if not words:
            return set()
        uid = int(words[1]) if len(words) > 1 and words[1].isdecimal() else None
        return {Mapped(_job_id(words[0]), name, "gres", 1, 1, name, uid)}
    jobs = [_job_id(w) for line in text.splitlines() if (w := line.strip()) not in {"", "0"}]
    jobs = list(dict.fromkeys(jobs))[:_MAX_JOBS]
    return {Mapped(job, name, "nvml", 1, len(jobs), name) for job in jobs}


def _job_id(word: str) -> str:
    if not _JOB_ID.match(word):
        raise InputError(f"job mapping: {word[:40]!r} is not a job id", reason="bad_job_id")
    return word
