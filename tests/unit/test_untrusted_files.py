"""What users may put where the daemon reads, and what of it is believed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from joulebook.errors import InputError
from joulebook.untrusted_files import (
    decoded,
    open_directory,
    open_to_append,
    read,
    read_secret,
    shown_path,
)

ME = {os.getuid()}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.reason


def test_a_file_is_read_whole_and_only_as_what_it_is(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "good").write_bytes(b"said")
    assert read(fd, "good", 4, ME).raw == b"said"
    assert read(None, str(tmp_path / "good"), 4, ME).stat.st_uid == os.getuid()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "open").write_bytes(b"x")
    (tmp_path / "open").chmod(0o666)
    right = {
        "link": "symlink", "pipe": "not_regular", "directory": "not_regular",
        "open": "file_too_open", "a\0b": "unreadable",
    }  # fmt: skip
    found = {name: refused(partial(read, fd, name, 9, ME)) for name in right}
    assert found == right
    assert refused(lambda: read(fd, "good", 3, ME)) == "too_large"
    assert refused(lambda: read(fd, "good", 9, {os.getuid() + 1})) == "foreign_owner"
    with pytest.raises(FileNotFoundError):
        read(fd, "none", 9, ME)
    os.close(fd)


@pytest.mark.parametrize(
    ("mode", "shared", "reason"),
    [(0o755, False, ""), (0o1777, True, ""), (0o755, True, ""),
     (0o1777, False, "directory_too_open"), (0o777, True, "directory_too_open"),
     (0o775, True, "directory_too_open")],
)  # fmt: skip
def test_a_directory_counts_where_nobody_removes_the_files_of_others(
    tmp_path: Path, mode: int, shared: bool, reason: str
) -> None:
    tmp_path.chmod(mode)
    if reason:
        assert refused(lambda: open_directory(tmp_path, ME, shared=shared)) == reason
        return
    os.close(open_directory(tmp_path, ME, shared=shared))
    assert refused(lambda: open_directory(tmp_path, {os.getuid() + 1})) == "foreign_owner"


def test_nothing_is_appended_to_what_may_be_another_file(tmp_path: Path) -> None:
    path = tmp_path / "output"
    assert refused(lambda: open_to_append(str(path), os.getuid())) == "unreadable"
    assert not path.exists()
    path.touch()
    os.close(open_to_append(str(path), os.getuid()))
    (tmp_path / "second").hardlink_to(path)
    assert refused(lambda: open_to_append(str(path), os.getuid())) == "linked"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[" * 5000 + b"]" * 5000, "not_json"),
        (b'{"x":' * 5000 + b"1" + b"}" * 5000, "not_json"),
        (b"\xff", "not_json"),
        (b"", "not_json"),
        (b"[1]", "bad_field"),
    ],
)
def test_json_of_any_depth_is_only_bad_input(raw: bytes, reason: str) -> None:
    anything: msgspec.json.Decoder[object] = msgspec.json.Decoder()
    wanted: msgspec.json.Decoder[object] = msgspec.json.Decoder(dict[str, str])
    decoder = anything if reason == "not_json" else wanted
    assert refused(lambda: decoded(decoder, raw, "x.json", "{}")) == reason


def test_a_secret_that_everybody_may_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "token"
    secret.write_bytes(b"s" * 32)
    link = tmp_path / "link"  # as a kubelet lays secrets out
    link.symlink_to(secret)
    for mode in (0o600, 0o640, 0o400, 0o440):
        secret.chmod(mode)
        assert read_secret(secret) == read_secret(link) == b"s" * 32
    secret.chmod(0o644)
    closed = tmp_path.stat().st_mode & 0o001 == 0 or any(
        not parent.stat().st_mode & 0o001 for parent in tmp_path.parents
    )
    assert closed, "pytest makes its directories for one user"
    assert read_secret(secret), "nobody else gets into its directory"
    everywhere = os.stat_result((0o40755, *[0] * 9))
    monkeypatch.setattr(Path, "stat", lambda _self, **_: everywhere)
    for path in (secret, link):
        with pytest.raises(OSError, match="everybody on this machine may read it"):
            read_secret(path)


def test_what_may_be_the_secret_itself_is_not_shown() -> None:
    assert shown_path("/etc/joulebook/token") == "/etc/joulebook/token"
    assert "5ecret" not in shown_path(Path("5ecret"))
