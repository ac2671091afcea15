"""`joulebook health`: heard with next to nothing imported, and like the command where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from joulebook.server.server import Server

MOST_MODULES = 25
"""Modules that a bare Python has not loaded: `socket` and what it needs."""

PROGRAM = """
import sys
bare = set(sys.modules)
from joulebook import __main__, daemon_address
if sys.argv[2]:
    daemon_address.CONFIG = sys.argv.pop(2)
else:
    del sys.argv[2]
status = __main__.main()
more = sorted(set(sys.modules) - bare)
import json
print(json.dumps([status, more]))
"""


@dataclass
class Pages:
    """A daemon that says of itself what the test wants."""

    is_well: bool = True

    def healthy(self) -> tuple[bool, str]:
        return self.is_well, "alive" if self.is_well else "the loop has stood still for 9 s"

    ready = healthy

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        return b"", "text/plain"

    def index(self) -> bytes:
        return b""


@dataclass
class Answer:
    """What the command said, and what it took."""

    status: int
    out: str
    err: str
    modules: list[str]


def ask(*, config: Path | None = None, **environ: str) -> Answer:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JOULEBOOK_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "health", str(config or "")],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    *said, counted = done.stdout.splitlines()
    status, modules = json.loads(counted)
    return Answer(status, "\n".join(said), done.stderr, modules)


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[Server]:
    server = Server("127.0.0.1:0", pages)
    server.start()
    yield server
    server.stop()


def test_a_daemon_that_is_well_is_heard_before_anything_is_imported(server: Server) -> None:
    answer = ask(JOULEBOOK_SERVER_LISTEN=f":{server.port}")
    assert (answer.status, answer.out, answer.err) == (0, "alive", "")
    ours = [name for name in answer.modules if name.startswith("joulebook")]
    assert ours == ["joulebook", "joulebook.__main__", "joulebook.daemon_address"]
    assert len(answer.modules) <= MOST_MODULES, answer.modules
    assert not {"re", "typing", "encodings.idna"} & set(answer.modules)


def test_where_it_listens_is_as_configured(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[server]\nlisten = "0.0.0.0:{server.port}"\n')
    assert ask(config=config).out == "alive"
    away = ask(config=config, JOULEBOOK_SERVER_LISTEN="127.0.0.1:1")
    assert (away.status, away.out) == (1, "")
    assert "no daemon answers at http://127.0.0.1:1" in away.err


def test_one_that_is_not_well_says_why(server: Server, pages: Pages) -> None:
    pages.is_well = False
    answer = ask(JOULEBOOK_SERVER_LISTEN=f"127.0.0.1:{server.port}")
    assert (answer.status, answer.out) == (1, "the loop has stood still for 9 s")


def test_a_wrong_setting_is_told_as_ever() -> None:
    answer = ask(JOULEBOOK_SERVER_LISTEN="nowhere")
    assert (answer.status, answer.out) == (2, "")
    assert "is not host:port" in answer.err


def test_behind_tls_and_passwords_it_is_heard_as_well(pages: Pages, tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("node17.lab")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    web = tmp_path / "web.yml"
    web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.pem}\n")
    server = Server("127.0.0.1:0", pages, web)
    server.start()
    try:
        answer = ask(
            JOULEBOOK_SERVER_LISTEN=f"127.0.0.1:{server.port}", JOULEBOOK_SERVER_WEB_CONFIG=str(web)
        )
    finally:
        server.stop()
    assert (answer.status, answer.out) == (0, "alive")
    assert "click" not in answer.modules


def test_the_package_loads_nothing_until_it_is_used() -> None:
    program = (
        "import sys; bare = set(sys.modules); import joulebook; "
        "assert set(sys.modules) - bare == {'joulebook'}; "
        "from joulebook import experiment; assert experiment is joulebook.experiment; "
        "assert not hasattr(joulebook, 'anything')"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60, check=True,
    )  # fmt: skip


def test_the_benchmark_of_stages_times_what_there_is() -> None:
    from benchmarks.stages import STAGES

    assert [name for _, owner, name in STAGES if not hasattr(owner, name)] == []
