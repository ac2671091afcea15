from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.unit.ledger.samples import GPU0, JOB, anchor, run, tick

from joulebook.core.ledger.state import Books
from joulebook.errors import ConfigError, LedgerBusy, LedgerCorrupt, LedgerUnavailable
from joulebook.ledger import report_query
from joulebook.ledger import sqlite as sqlite_store
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path, allow_volatile=True)) as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Use up what is left of a disk; gives the file to delete again."""
    ballast = folder / "ballast"
    fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while os.write(fd, bytes(4096)):
            pass
    os.close(fd)
    assert os.statvfs(folder).f_bavail == 0
    return ballast


@contextmanager
def child(work: Callable[[], str]) -> Iterator[tuple[int, str]]:
    """A forked process that did the work and then waits: its pid and answer. Killed at the end."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "nothing"
        try:
            answer = work()
        except BaseException as exc:
            answer = repr(exc)
        finally:
            os.write(say, answer.encode())
            os.close(say)
            signal.pause()
            os._exit(0)
    os.close(say)
    try:
        with os.fdopen(ready, "rb") as pipe:
            answer = pipe.read().decode()
        yield pid, answer
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(scope="session")
def disk_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes the disk fail under a program."""
    library = tmp_path_factory.mktemp("faults") / "disk_faults.so"
    source = Path(__file__).with_name("disk_faults.c")
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", library, source, "-ldl"], check=True)
    return library


def under_fire(mode: str, folder: Path, library: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.integration.ledger_under_fire", mode, folder],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "exporter"), str(ROOT)]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("mode", ["kill-fresh", "kill", "kill-statement", "kill-clock"])
def test_kill_leaves_the_books_before_or_after(
    tmp_path: Path, disk_faults: Path, mode: str
) -> None:
    seen = under_fire(mode, tmp_path, disk_faults)
    assert seen["points"] >= 40
    before = "0" if mode == "kill-fresh" else "1"
    assert set(seen["stood"]) >= {before, "2", "3"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("EIO", "the disk failed to read or write"),
        ("EROFS", "over quota, or read-only"),
        ("EDQUOT", "over quota"),
        ("ENOSPC", "no space left: free some on the file system of FOLDER"),
    ],
)
def test_disk_that_fails_anywhere_in_a_commit_costs_nothing(
    tmp_path: Path, disk_faults: Path, error: str, words: str
) -> None:
    seen = under_fire(error, tmp_path, disk_faults)
    assert seen["points"] >= 10
    assert any(words in each for each in seen["messages"])
    assert all("nothing is lost: booking resumes by itself" in each for each in seen["messages"])


def test_full_disk_costs_nothing(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books = run(store, 3)
        ballast = fill(small_disk)
        after, entry = books, None
        for n in range(3, 2_000):  # what the log still has room for is filled first
            after, entry = tick(books, n * 900)
            try:
                store.commit(books, after, entry, anchor(after))
            except LedgerUnavailable as exc:
                assert f"no space left: free some on the file system of {small_disk}" in str(exc)
                break
            books = after
        assert entry is not None
        assert store.load()[0] == books
        with pytest.raises(LedgerUnavailable):
            store.commit(books, after, entry, anchor(after))
        with LedgerReader(path) as reader:
            assert all(each.difference_uj == 0 for each in reader.balance_check())
        ballast.unlink()
        store.commit(books, after, entry, anchor(after))
        assert store.load()[0] == after
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        assert store.load()[0] == after
    with LedgerReader(path) as reader:
        assert all(each.difference_uj == 0 for each in reader.balance_check())


def test_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    ballast = fill(small_disk)
    with pytest.raises(LedgerUnavailable, match=r"[Nn]o space left"):
        SqliteStore(small_disk / "ledger.db", allow_volatile=True)
    ballast.unlink()
    with closing(SqliteStore(small_disk / "ledger.db", allow_volatile=True)) as store:
        run(store, 1)


def test_read_only_disk_is_refused_until_it_is_not(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books = run(store, 2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(LedgerUnavailable, match="Read-only file system"):
        SqliteStore(path, allow_volatile=True)
    with LedgerReader(path) as reader:
        assert report_query.workload_totals(reader, JOB)[0].total.energy_uj > 0
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        assert store.load()[0] == books


def test_real_tmpfs_is_refused(small_disk: Path) -> None:
    with pytest.raises(ConfigError, match=r"is on tmpfs.*ledger\.allow_volatile = true"):
        SqliteStore(small_disk / "new" / "ledger.db")
    assert not (small_disk / "new").exists()


def test_lock_of_another_program_costs_nothing(store: SqliteStore, path: Path) -> None:
    books = run(store, 1)
    after, entry = tick(books, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match=rf"has it locked: `fuser {path}`"):
            store.commit(books, after, entry, anchor(after))
        assert store.load()[0] == books
    store.commit(books, after, entry, anchor(after))
    assert store.load()[0] == after


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_that_may_not_be_written_is_refused(short_tmp_path: Path, journal: str) -> None:
    path = short_tmp_path / "ledger.db"
    SqliteStore(path, allow_volatile=True).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
    path.with_name("ledger.db.lock").unlink()
    path.chmod(0o444)
    short_tmp_path.chmod(0o777)

    def work() -> str:
        become_nobody([])
        SqliteStore(path, allow_volatile=True)
        return "opened"

    with child(work) as (_, answer):
        assert answer.startswith("LedgerUnavailable")
        assert "cannot be written to: check the owner and mode" in answer


@pytest.mark.parametrize("noise", [b"\x00", b"\xff", b"joule"], ids=["zeros", "ones", "text"])
def test_page_that_was_overwritten_is_found(path: Path, noise: bytes) -> None:
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books = run(store, 40)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("VACUUM")  # what is written over a free page damages nothing
    sound = path.read_bytes()
    pages = len(sound) // 4096
    assert pages > 10
    for page in range(pages):
        junk = (noise * 4096)[:4096]
        path.write_bytes(sound[: page * 4096] + junk + sound[(page + 1) * 4096 :])
        with (
            pytest.raises(LedgerCorrupt, match=rf"{path} is damaged .*keep a copy.*\.recover"),
            closing(SqliteStore(path, allow_volatile=True)) as store,
        ):
            store.load()
        path.write_bytes(sound)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        assert store.load()[0] == books


def test_damage_while_running_is_told_apart(store: SqliteStore, path: Path) -> None:
    books = run(store, 5)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA writable_schema = ON")
        other.execute("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'postings_by_seq'")
        other.execute("PRAGMA schema_version = 77")
    with pytest.raises(LedgerCorrupt, match="is damaged"):
        run(store, 1, books, first=5)


def test_second_process_is_refused_and_a_killed_one_is_not_in_the_way(path: Path) -> None:
    def work() -> str:
        return str(run(SqliteStore(path, allow_volatile=True), 3).last_ns)

    with child(work) as (pid, said):
        in_use = rf"in use by another Joulebook daemon, pid {pid}\b"
        with pytest.raises(LedgerBusy, match=in_use):
            SqliteStore(path, allow_volatile=True)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        assert str(store.load()[0].last_ns) == said


def test_log_does_not_grow_by_itself(store: SqliteStore, path: Path) -> None:
    store._conn.execute("PRAGMA synchronous = OFF")  # the growth is the same
    wal = path.with_name("ledger.db-wal")
    books, sizes = Books(), set()
    for n in range(0, 3_000, 100):
        books = run(store, 100, books, first=n)
        sizes.add(wal.stat().st_size)
    assert max(sizes) < 6 * 1024 * 1024
    assert store.load()[0] == books


def test_log_that_a_reader_holds_back_is_bounded(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1024 * 1024
    monkeypatch.setattr(sqlite_store, "_WAL_LIMIT", limit)
    wal = path.with_name("ledger.db-wal")
    books = run(store, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM state").fetchone()
        with pytest.raises(LedgerUnavailable, match="another program has been reading for too"):
            for n in range(1, 1_000):
                books = run(store, 1, books, first=n)
        assert limit < wal.stat().st_size < limit + 200_000
        assert store.load()[0] == books
    after, entry = tick(books, 2_000)
    store.commit(books, after, entry, anchor(after))
    assert store.load()[0] == after
    assert wal.stat().st_size < limit


def become_nobody(groups: list[int]) -> None:
    os.setgroups(groups)
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.mark.parametrize("daemon", ["running", "stopped", "killed"])
def test_group_may_read_and_others_may_not(short_tmp_path: Path, daemon: str) -> None:
    path = short_tmp_path / "books" / "ledger.db"
    short_tmp_path.chmod(0o755)

    def keep() -> str:
        store = SqliteStore(path, allow_volatile=True)
        run(store, 3)
        if daemon == "stopped":
            store.close()
        return "kept"

    def ask(groups: list[int]) -> str:
        become_nobody(groups)
        with LedgerReader(path) as reader:
            return str(report_query.workload_totals(reader, JOB)[0].by_meter[GPU0].energy_uj)

    with child(keep) as (pid, said):
        assert said == "kept"
        if daemon == "killed":
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for each in (path.parent, *path.parent.iterdir()):
            os.chown(each, 0, 4242)
        with child(lambda: ask([4242])) as (_, answer):
            assert answer == "2700009"
        with child(lambda: ask([])) as (_, answer):
            assert "cannot be read (Permission denied): run as root, or as" in answer
