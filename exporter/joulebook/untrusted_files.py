"""Read files written by others, trusting only what can be checked.

Files are opened once and then checked by descriptor, so that nothing can be swapped in between: no
symbolic links, pipes or devices, only allowed owners, not writable by others, limited size.
Rejected files raise `InputError`; its `reason` is the value of a label: `symlink`, `unreadable`,
`not_regular`, `foreign_owner`, `file_too_open`, `directory_too_open`, `too_large`, `not_json`,
`bad_field`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Container
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import msgspec

from joulebook.errors import ConfigError, InputError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

T = TypeVar("T")


class File(NamedTuple):
    """The content of a file, and its `stat`."""

    raw: bytes
    stat: os.stat_result


def trusted_owners() -> frozenset[int]:
    """Return the users trusted for everyone: root, and the user of this daemon."""
    return frozenset({0, os.geteuid()})


def open_directory(path: Path, owners: Container[int], *, shared: bool = False) -> int:
    """Open a directory that only its owner can change, and return its descriptor.

    In a `shared` one all may write, but remove only their own files (mode 1777). Raises
    `InputError`, and `OSError` if it cannot be opened at all.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and path.is_symlink():
            raise InputError(f"{path} is a symbolic link", reason="symlink") from None
        raise
    seen = os.fstat(fd)
    wrong = None
    if seen.st_uid not in owners:
        wrong = InputError(f"{path} belongs to uid {seen.st_uid}", reason="foreign_owner")
    elif seen.st_mode & _OTHERS_WRITE and not (shared and seen.st_mode & stat.S_ISVTX):
        right = "mode 1777" if shared else "mode 0755"
        text = f"{path}: others may write to it (expected {right})"
        wrong = InputError(text, reason="directory_too_open")
    if wrong is not None:
        os.close(fd)
        raise wrong
    return fd


def read(directory_fd: int | None, name: str, limit: int, owners: Container[int]) -> File:
    """Read a file of at most `limit` bytes that belongs to one of `owners`.

    `name` is relative to the open directory, or a path if there is none. Raises `InputError`, and
    `FileNotFoundError` for a file that was just removed.
    """
    fd = _open(directory_fd, name, os.O_RDONLY)
    try:
        seen = _checked(fd, name, owners)
        if seen.st_mode & _OTHERS_WRITE:
            raise InputError(f"{name}: others may write to it", reason="file_too_open")
        raw = b""
        while len(raw) <= limit:
            chunk = os.read(fd, limit + 1 - len(raw))
            if not chunk:
                return File(raw, seen)
            raw += chunk
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}", reason="unreadable") from None
    finally:
        os.close(fd)
    raise InputError(f"{name} is larger than {limit} bytes", reason="too_large")


def open_named(path: Path) -> IO[bytes]:
    """Open a file that an option or a setting names, waiting for nobody. Raises `OSError`.

    A pipe will do (`<(zcat rows.gz)`); one that nobody writes has ended.
    """

    def opened(name: str, flags: int) -> int:
        fd = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(fd, True)
        return fd

    return open(path, "rb", opener=opened)


def read_named(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes of it. Raises `ConfigError` that names the file."""
    try:
        with open_named(path) as file:
            raw = file.read(limit + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {why}") from None
    if len(raw) > limit:
        raise ConfigError(f"{path}: larger than {limit} bytes")
    return raw


def read_named_text(path: Path, limit: int) -> str:
    """Read it as text, without a byte-order mark. Raises `ConfigError`."""
    return named_text(read_named(path, limit), path)


def named_text(raw: bytes, path: Path) -> str:
    """Return the content of a file as text, without a byte-order mark. Raises `ConfigError`."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None


def write_named(path: Path, content: bytes) -> None:
    """Replace the file in one step, or not at all. Raises `OSError`.

    A link stays a link; a device or a pipe is written to, and not replaced for everybody.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        fd = os.open(real, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)  # A pipe may have no reader.
        os.set_blocking(fd, True)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        return
    draft = real.with_name(f".{real.name}.{os.getpid()}")
    with contextlib.ExitStack() as undo:
        with draft.open("xb") as file:
            undo.callback(draft.unlink, missing_ok=True)
            file.write(content)
        draft.replace(real)


def read_secret(path: Path, limit: int = 65_536) -> bytes:
    """Read up to `limit` bytes of a file with a password, token or key.

    Raises `OSError` with a `strerror` that explains the problem, also if everyone on this machine
    may read the file.
    """
    with open_named(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        raw = file.read(limit)
    if mode & stat.S_IROTH and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents
    ):
        text = "everybody on this machine may read it: chmod 640 (or 600)"
        raise PermissionError(errno.EPERM, text, str(path))
    return raw


def shown_path(path: str | Path) -> str:
    """Return the path of a secret for messages, unless it may be the secret itself."""
    text = str(path)
    return text if "/" in text else "the value (expected the path of a file)"


def open_to_append(path: str, owner: int) -> int:
    """Open `owner`'s own regular file to append to it; nothing is created. Raises `InputError`.

    A file with several hard links is rejected: someone may have linked another file of the owner.
    """
    try:
        fd = _open(None, path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}", reason="unreadable") from None
    try:
        links = _checked(fd, path, {owner}).st_nlink
        if links != 1:
            raise InputError(f"{path}: has {links} hard links", reason="linked")
    except InputError:
        os.close(fd)
        raise
    return fd


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes, name: str, example: str) -> T:
    """Decode JSON of the file `name`. Raises `InputError` for anything else.

    `example` shows what is expected. JSON may be nested deeper than any decoder can follow.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: {error}; expected {example}", reason="bad_field") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{name}: {error}; expected {example}", reason="not_json") from None


def _open(directory_fd: int | None, name: str, mode: int) -> int:
    try:
        return os.open(name, mode | _OPEN, dir_fd=directory_fd)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = "symlink" if getattr(error, "errno", 0) == errno.ELOOP else "unreadable"
        what = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {what}", reason=reason) from None


def _checked(fd: int, name: str, owners: Container[int]) -> os.stat_result:
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        raise InputError(f"{name} is not a regular file", reason="not_regular")
    if seen.st_uid not in owners:
        raise InputError(f"{name} belongs to uid {seen.st_uid}", reason="foreign_owner")
    return seen
