"""Append to a job's output file with the privileges of the job's user only.

The user chooses the path, and others may be able to write next to it. So all other privileges are
dropped for good before the path is touched, links are not followed, nothing is created, and only a
regular file with one link that belongs to the user is accepted. docs/adr/0011-job-summary.md has
the reasons.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from typing import NamedTuple

from joulebook.errors import InputError
from joulebook.untrusted_files import open_to_append

SCONTROL_S = 10.0
MAX_PATH_BYTES = 4096
_BLOCK = re.compile(r"^JobId=(\d+)\b", re.MULTILINE)


class Output(NamedTuple):
    """The output of a job, as known to the controller; `nodes` is 0 if unknown."""

    path: str
    nodes: int = 0
    batch_host: str = ""


def ask(scontrol: str, job_id: str) -> Output | None:
    """Query the controller once, for at most `SCONTROL_S`; `None` if it does not know.

    The answer contains text of the user. Only the path is used, and what it leads to is checked
    with the user's privileges only.
    """
    try:
        done = subprocess.run(
            [scontrol, "show", "job", job_id],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCONTROL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(os.fsdecode(done.stdout), job_id) if done.returncode == 0 else None


def parse(answer: str, job_id: str) -> Output | None:
    """Parse the output of `scontrol show job` for one job (the first, if it is an array).

    Names and comments may contain lines that look like SLURM's. Its own come after them, so the
    last one counts.
    """
    starts = [(m.start(), m[1]) for m in _BLOCK.finditer(answer)] or [(0, "")]
    ends = [start for start, _ in starts[1:]] + [len(answer)]
    own = "".join(
        answer[start:end]
        for (start, number), end in zip(starts, ends, strict=True)
        if number == job_id
    )

    def last(pattern: str) -> str:
        return next(reversed(re.findall(pattern, own, re.MULTILINE)), "")

    path = last(r"^ +StdOut=(/.*)$")
    if not path:
        return None
    nodes = last(r"^ +NumNodes=(\d{1,6})\b")
    return Output(path, int(nodes or 0), last(r"^ +BatchHost=(\S+)"))


def become(uid: int) -> None:
    """Drop all privileges except those of `uid`, for good.

    Raises `InputError` for root and for unknown users, whose files we must not write; `OSError` if
    this process may not change its user.
    """
    if uid == 0:
        raise InputError("the job is root's: files of root are not written to", reason="root")
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise InputError(f"uid {uid} is unknown on this node", reason="unknown_user") from None
    if os.geteuid() == 0:
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        os.setgroups(groups)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise InputError(f"this process may not switch to uid {uid}", reason="not_permitted")
    os.chdir("/")


def append(path: str, content: bytes, uid: int) -> None:
    """Append to the file, which `uid` must own. Raises `InputError` with the reason.

    Call `become` first: this opens the file with the privileges of the process.
    """
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InputError(f"{path[:80]!r}: not an absolute path", reason="bad_path")
    fd = open_to_append(path, uid)
    try:
        os.write(fd, content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", reason="not_written") from None
    finally:
        os.close(fd)
