"""Appending to a job's own output file, as the job's user and with nothing but that user's rights.

The path is of the user's choosing, and others may be able to write beside it. So all rights but the
user's are given up for good before the path is touched, links are not followed, nothing is ever
created, and only a regular file counts that belongs to the user and has no second name.
docs/adr/0011-job-summary.md says why each of these.
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
    """What the controller knows of a job's output; `nodes` 0: not known."""

    path: str
    nodes: int = 0
    batch_host: str = ""


def ask(scontrol: str, job_id: str) -> Output | None:
    """Ask the controller once, for at most `SCONTROL_S`; `None` if it does not say.

    The answer holds the user's own words. It is not relied on for anything but the path, and what
    the path leads to is checked with the user's rights alone.
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
    """What `scontrol show job` says of one job; of the first task of an array others follow.

    Names and comments may hold lines that look like those of SLURM. Its own come after them: the
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
    """Give up all rights but those of `uid`, for good.

    Raises `InputError` for root and for a user that is not known here: their files are not ours
    to write in; `OSError` if we may not.
    """
    if uid == 0:
        raise InputError("the job is root's: nothing is appended to files of root", reason="root")
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise InputError(f"uid {uid} is not known on this node", reason="unknown_user") from None
    if os.geteuid() == 0:
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        os.setgroups(groups)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise InputError(f"this process may not become uid {uid}", reason="not_permitted")
    os.chdir("/")


def append(path: str, content: bytes, uid: int) -> None:
    """Append to the file, which must be `uid`'s own. Raises `InputError` with the reason.

    Call `become` first: this opens with the rights that the process has.
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
