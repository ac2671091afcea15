"""Event files of the SLURM hooks (`hooks/prolog.sh`), read with suspicion.

They decide who is charged, so only files count that root (or this daemon's user) wrote to a
directory where no one else can write. Rejected files raise `InputError`; its `reason` is the value
of a label. Their wall-clock times become node time here.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from joulebook.clock import Clock
from joulebook.core.sanitize import clean_label
from joulebook.errors import InputError
from joulebook.units import NS_PER_MS, NS_PER_S
from joulebook.untrusted_files import decoded, read

MAX_EVENT_BYTES = 128 * 1024
MAX_LABEL_FILE_BYTES = 16 * 1024

LABEL_NAMES = frozenset(
    {
        "SLURM_JOB_NAME",
        "SLURM_JOB_QOS",
        "JOULEBOOK_EXPERIMENT",
        "JOULEBOOK_STAGE",
        "WANDB_PROJECT",
        "WANDB_RUN_GROUP",
        "WANDB_SWEEP_ID",
        "MLFLOW_EXPERIMENT_NAME",
    }
)
"""The only names of a user's environment that may become labels."""

_JobId = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,11}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
_Instant = Annotated[int, msgspec.Meta(gt=0, lt=2**62)]
_Gpu = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9/_.-]{0,79}$")]

_NAME = re.compile(r"^([0-9]+\.[0-9]+)(?:\.([A-Za-z0-9_-][A-Za-z0-9_.-]*))?\.(json|end)$")


class JobEvent(msgspec.Struct, frozen=True, gc=False):
    """One job on one node. Wall-clock nanoseconds; `None` or empty if not set by the hook.

    `gpus` are gres.conf indices, minors or UUIDs, according to `gpu_ids`. `boot_id` and
    `start_uptime_ms` give the start on a clock that cannot be set.
    """

    v: Literal[1]
    scheduler: Literal["slurm"]
    job_id: _JobId
    start_ns: _Instant
    restart_count: _Count = 0
    gpus: Annotated[tuple[_Gpu, ...], msgspec.Meta(max_length=64)] = ()
    user: str = ""
    uid: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] | None = None
    account: str = ""
    partition: str = ""
    comment: str = ""
    end_ns: _Instant | None = None
    node: str = ""
    cluster: str = ""
    gpu_ids: Literal["gres", "minor", "uuid"] | None = None
    het_job_id: _Count | None = None
    time_limit_s: _Count = 0
    boot_id: str = ""
    start_uptime_ms: _Instant | None = None
    end_uptime_ms: _Instant | None = None


_EVENT = msgspec.json.Decoder(JobEvent)
_LABELS = msgspec.json.Decoder(dict[str, str])


EXAMPLE = (
    '{"v": 1, "scheduler": "slurm", "job_id": "101", "restart_count": 0, "gpus": ["0", "1"], '
    '"start_ns": 1764000000000000000}'
)
"""The required fields of an event file."""

_EXAMPLES = {
    **{key: json.dumps(value) for key, value in json.loads(EXAMPLE).items()},
    **dict.fromkeys(("user", "account", "partition", "comment", "node", "cluster"), '"a text"'),
    "uid": "1000",
    "end_ns": "1764000000000000000",
    "gpu_ids": '"gres", "minor" or "uuid"',
    "het_job_id": "101",
    "time_limit_s": "3600",
    "boot_id": '"as in /proc/sys/kernel/random/boot_id"',
    "start_uptime_ms": "86400000",
    "end_uptime_ms": "86400000",
}
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_AT = re.compile(
    r"(?:Object missing required field `(?P<missing>\w+)`)"
    r"|(?: - at `\$\.(?P<key>\w+)(?:\[(?P<position>\d+)\])?)"
)
_SHOWN_CHARS = 40


def event_stem(name: str) -> tuple[str, bool] | None:
    """Return the stem of an event file's name, and whether it is an end; `None` for other files."""
    found = _NAME.match(name)
    if found is None:
        return None
    return name.rsplit(".", 1)[0], found[3] == "end"


def read_event(directory_fd: int, name: str, owners: frozenset[int]) -> tuple[JobEvent, int]:
    """Return an event, cleaned, and the wall-clock ns of the file's last change of name or content.

    Raises `InputError` for what cannot be trusted, `FileNotFoundError` for a file just removed.
    """
    raw, seen = read(directory_fd, name, MAX_EVENT_BYTES, owners)
    event = decode_event(raw, name)
    stem = f"{event.job_id}.{event.restart_count}"
    # A file under another name than its content could end somebody else's job.
    if not name.startswith((f"{stem}.json", f"{stem}.end", f"{stem}.{event.node or '/'}.")):
        raise InputError(f"{name} is about job {stem}", reason="bad_name")
    return event, seen.st_ctime_ns


def decode_event(raw: bytes, name: str = "event") -> JobEvent:
    """Return the typed content of the event file `name`, its texts fit for labels.

    Raises `InputError` with the key, the problem, and what is expected.
    """
    try:
        event = _EVENT.decode(raw)
    except msgspec.ValidationError as error:
        reason = "bad_job_id" if "`$.job_id`" in str(error) else "bad_field"
        raise InputError(f"{name}: {_wrong(raw, str(error))}", reason=reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"{name}: {error}; expected one JSON object, written elsewhere and renamed to here"
        raise InputError(text, reason="not_json") from None
    return msgspec.structs.replace(
        event,
        user=clean_label(event.user),
        account=clean_label(event.account),
        partition=clean_label(event.partition),
        comment=clean_label(event.comment, 2048),
        node=clean_label(event.node),
        cluster=clean_label(event.cluster),
        boot_id=clean_label(event.boot_id),
    )


def _wrong(raw: bytes, problem: str) -> str:
    """Return what msgspec complains of, with the key and value that it means, and an example."""
    found = _AT.search(problem)
    if found is None:
        return f"{problem}; expected an object such as {EXAMPLE}"
    key, position = found["key"] or found["missing"], found["position"]
    text = problem
    try:
        value = _ANY.decode(raw)[key]
        value = value if position is None else value[int(position)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        pass  # Nothing is there, or it cannot be shown.
    else:
        shown = clean_label(msgspec.json.encode(value).decode(), _SHOWN_CHARS)
        where = key if position is None else f"{key}[{position}]"
        text = f"{where} = {shown}: {problem[: found.start()]}"
    example = _EXAMPLES.get(key)
    return text if example is None else f'{text}; expected, for example, "{key}": {example}'


def read_labels(directory: Path, job_id: str, uid: int) -> dict[str, str]:
    """What `hooks/task_prolog.sh` left for a job, if the job's own user wrote it; else nothing.

    The directory is open to every user: only a regular file that belongs to `uid` counts, and of
    it only allow-listed names. Raises `InputError` for a file that is there and cannot count.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        raw, _ = read(fd, f"{job_id}.{uid}.json", MAX_LABEL_FILE_BYTES, {uid})
    except FileNotFoundError:
        return {}
    finally:
        os.close(fd)
    found = decoded(_LABELS, raw, f"labels of job {job_id}", '{"SLURM_JOB_NAME": "bert"}')
    return {k: clean_label(v) for k, v in found.items() if k in LABEL_NAMES}


_STEP_NS = 50 * NS_PER_MS
_OFFSET_GRAIN_NS = 100_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class WallTime:
    """This boot, and the current wall clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.boot_id = _BOOT_ID.read_text().strip()

    def earlier_boot(self, same_boot: bool | None, t0_ns: int) -> bool:
        """Return whether an event is from an earlier boot, even if it does not state its boot."""
        return not same_boot if same_boot is not None else self._clock.boottime_ns(t0_ns) < 0

    def node_ns(self, wall_ns: int, uptime_ms: int | None) -> int:
        """Return the node time of an instant; `uptime_ms` is the same on a clock that cannot be
        set.
        """
        # In grains: reading the same file after a restart must give the same instant.
        offset_ns = self._clock.utc_offset_ns()
        node_ns = wall_ns - round(offset_ns / _OFFSET_GRAIN_NS) * _OFFSET_GRAIN_NS
        if uptime_ms is not None:
            by_boot_ns = uptime_ms * NS_PER_MS - self._clock.boottime_ns(0)
            if abs(by_boot_ns - node_ns) > _STEP_NS:
                node_ns = by_boot_ns  # The wall clock was set since.
        return min(node_ns, self._clock.now_ns())

    def utc_s(self, t_ns: int) -> int:
        """Return the UTC second of an instant of node time."""
        return (t_ns + self._clock.utc_offset_ns()) // NS_PER_S
