"""The lab server on real munged, real sockets, and the command line of ordinary users."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.integration.browser import chromium
from tests.integration.postgresql import PostgreSql
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node
from tests.unit.lab.web.served import bearer, filled, served, uj
from tests.unit.lab.web.test_access import PATHS

from joulebook.lab.web import munge, wire

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="munged for several users: root")

USERS = ("nobody", "games")
"""Accounts that every Debian has."""


class Running(NamedTuple):
    """A lab server: its address, configuration, Unix socket, and munged's."""

    url: str
    config: Path
    socket: Path
    munge_socket: str


@pytest.fixture(scope="module")
def lab() -> Iterator[Running]:
    # Other users go in and out, which the directories of pytest do not allow.
    with tempfile.TemporaryDirectory(prefix="joulebook-lab-") as folder:
        Path(folder).chmod(0o755)
        with serving(Path(folder)) as running:
            yield running


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Running]:
    """A lab server in a folder."""
    node = Node("n1", "a" * 32, "lab")
    for job, user in (("201", "nobody"), ("202", "games")):
        start_ns = (NOVEMBER_S + 3600) * 10**9
        node.label(job, "phys", user, f"of-{user}", started_utc_ns=start_ns, named=True,
                   ended_utc_ns=start_ns + 900 * 10**9)  # fmt: skip
        node.burn(NOVEMBER_S + 3600, uj(int(job)), job, held_ns=900 * 10**9)
    with munged(folder) as munge_socket:
        port = free_port()
        url = filled(folder, node)
        token = folder / "token"
        token.write_text("collect-0123456789abcdef\n")
        token.chmod(0o600)
        config = folder / "lab.toml"
        config.write_text(
            f'[collect]\nlisten = "127.0.0.1:{free_port()}"\nurl = "{url}"\n'
            f'token_file = "{token}"\ntargets = ["127.0.0.1:9"]\n'
            f'[lab]\nlisten = "127.0.0.1:{port}"\nurl = "http://127.0.0.1:{port}"\n'
            f'socket = "{folder / "lab.sock"}"\nmunge_socket = "{munge_socket}"\n'
            'proxy_user = "www-data"\n'
            f'[rates]\ncache_dir = "{folder / "rates"}"\n'
            '[rates.price]\nkind = "constant"\nper_kwh = 0.25\n'
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "joulebook", "lab", "--config", str(config)],
                env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
                stderr=log,
            )
        try:
            answering(f"http://127.0.0.1:{port}/healthz", server)
            yield Running(f"http://127.0.0.1:{port}", config, folder / "lab.sock", munge_socket)
        finally:
            server.terminate()
            assert server.wait(30) == 0, (folder / "log").read_text()


@contextlib.contextmanager
def munged(folder: Path) -> Iterator[str]:
    """A real munged with a key of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    where = folder / "munge.sock"
    files = [f"--{kind}-file={folder / kind}" for kind in ("pid", "log", "seed")]
    daemon = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={where}", *files]
    )
    try:
        deadline = time.monotonic() + 30
        while not where.exists():
            assert daemon.poll() is None, "munged has ended"
            assert time.monotonic() < deadline, "no munged"
            time.sleep(0.05)
        yield str(where)
    finally:
        daemon.terminate()
        daemon.wait(30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def answering(url: str, process: subprocess.Popen[bytes], timeout_s: float = 90) -> None:
    """Wait for the first answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        assert process.poll() is None, "it has ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.1)
        else:
            return


_AS = """
import contextlib, io, os, sys
from joulebook import cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    cli.main(sys.argv[3:])  # Imports what is imported late.
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
sys.exit(cli.main(sys.argv[3:]))
"""
"""The command as another user, who may not be able to read this interpreter's modules."""


def acct(lab: Running, user: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`joulebook acct` as a user of this machine."""
    return joulebook(lab, user, "acct", *words)


def joulebook(
    lab: Running, user: str, command: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """A command as a user of this machine."""
    who = pwd.getpwnam(user)
    return subprocess.run(
        [sys.executable, "-c", _AS, str(who.pw_uid), str(who.pw_gid), command,
         "--config", str(lab.config), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip


def ask(
    url: str, headers: Mapping[str, str] | None = None, *, post: bool = False
) -> tuple[int, str, Message]:
    """Status, body and headers of one request; redirections are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object, **__: object) -> None:
            return None

    request = urllib.request.Request(url, headers=dict(headers or {}), data=b"" if post else None)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def nonce(lab: Running) -> dict[str, Any]:
    status, body, _ = ask(f"{lab.url}/api/v1/nonce", post=True)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def log_in(lab: Running, credential: str) -> tuple[int, str]:
    status, body, _ = ask(
        f"{lab.url}/api/v1/session", {"Authorization": f"Munge {credential}"}, post=True
    )
    return status, body


DAYS = ("--starttime", "2026-11-01", "--endtime", "2026-11-30")


@pytest.mark.parametrize(("user", "job"), [("nobody", "201"), ("games", "202")])
def test_users_see_their_own_jobs(lab: Running, user: str, job: str) -> None:
    done = acct(lab, user, *DAYS, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["id"], found["user"]) == (job, user)
    assert found["figures"]["energy_uj"] == uj(int(job))
    table = acct(lab, user, *DAYS, "--parsable2", "--format", "JobID,User,EnergyKWh")
    energy = f"{uj(int(job)) / 3.6e12:.6f}"
    assert table.stdout.splitlines() == ["JobID|User|EnergyKWh", f"{job}|{user}|{energy}"]


def test_root_sees_everything(lab: Running) -> None:
    done = acct(lab, "root", *DAYS, "--json")
    assert {job["user"] for job in json.loads(done.stdout)} == set(USERS), done.stderr


def test_a_job_and_a_bill_need_no_right_on_a_file(lab: Running) -> None:
    done = joulebook(lab, "nobody", "job", "--json", "201", "--lab")
    assert f"{uj(201)}" in done.stdout, done.stderr
    assert "not in the lab server" in joulebook(lab, "nobody", "job", "202", "--lab").stderr
    done = joulebook(lab, "nobody", "bill", "show", "2026-11", "--format", "csv", "--lab")
    assert "of-nobody" in done.stdout
    assert "of-games" not in done.stdout


def test_a_link_works_once(lab: Running) -> None:
    done = acct(lab, "nobody", "--web")
    link = done.stdout.strip()
    assert re.fullmatch(rf"{re.escape(lab.url)}/enter/[\w-]{{40,}}", link), done.stderr
    # Looking, or a preview of a chat, uses nothing up.
    for _ in range(2):
        status, body, headers = ask(link)
        assert status == 200
        assert "Log in as nobody" in body
        assert headers["Referrer-Policy"] == "no-referrer"
    status, _, headers = ask(link, post=True)
    assert status == 303
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    own = cookie.partition(";")[0]
    status, body, _ = ask(f"{lab.url}/?month=2026-11", {"Cookie": own})
    assert "of-nobody" in body
    assert "of-games" not in body
    assert ask(link, post=True)[0] == 403
    assert ask(f"{lab.url}/leave", {"Cookie": own}, post=True)[0] == 303
    assert ask(f"{lab.url}/", {"Cookie": own})[0] == 401
    logged = lab.config.with_name("log").read_text()
    assert link.rpartition("/")[2] not in logged
    assert own.partition("=")[2] not in logged


def test_a_link_is_no_session_and_a_cookie_is_no_link(lab: Running) -> None:
    secret = acct(lab, "nobody", "--web").stdout.strip().rpartition("/")[2]
    asked = f"{lab.url}/api/v1/months"
    assert ask(asked, {"Authorization": f"Bearer {secret}"})[0] == 401
    assert ask(asked, {"Cookie": f"joulebook-session={secret}"})[0] == 401


def test_credentials_are_good_once_and_here_only(lab: Running) -> None:
    uid = nonce(lab)["server_uid"]
    good = munge.encode(lab.url, nonce(lab)["nonce"], uid, lab.munge_socket)
    assert log_in(lab, good)[0] == 200
    status, body = log_in(lab, good)
    assert status == 401
    assert "used already" in body
    # The same nonce in a new credential.
    once = nonce(lab)["nonce"]
    assert log_in(lab, munge.encode(lab.url, once, uid, lab.munge_socket))[0] == 200
    assert "nonce" in log_in(lab, munge.encode(lab.url, once, uid, lab.munge_socket))[1]
    other = munge.encode("http://evil.example", nonce(lab)["nonce"], uid, lab.munge_socket)
    assert "another server" in log_in(lab, other)[1]
    anybody = subprocess.run(
        ["munge", "--socket", lab.munge_socket],
        input=munge.payload(lab.url, nonce(lab)["nonce"]),
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert "alone" in log_in(lab, anybody)[1]
    games = munge.encode(
        lab.url, nonce(lab)["nonce"], pwd.getpwnam("games").pw_uid, lab.munge_socket
    )
    assert log_in(lab, games)[0] == 401
    for wrong in ("", "MUNGE:", "MUNGE:AAAA:", "x" * 5000, "MUNGE:" + "A" * 3000 + ":"):
        assert log_in(lab, wrong)[0] == 401


def over_socket(lab: Running, user: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """`whoami` on the Unix socket, asked by an account."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    asked = f"GET /api/v1/whoami HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n{head}\r\n"
    script = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[3]))\n"
        "one = socket.socket(socket.AF_UNIX)\n"
        "one.connect(sys.argv[1])\n"
        "one.sendall(sys.argv[2].encode())\n"
        "while part := one.recv(65536):\n"
        "    sys.stdout.write(part.decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(lab.socket), asked,
         str(pwd.getpwnam(user).pw_uid)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.partition("\n\n")[2])
    return found


def test_the_socket_knows_its_peer(lab: Running) -> None:
    assert over_socket(lab, "nobody", {})["user"] == "nobody"
    # A header counts only from the proxy's account.
    assert over_socket(lab, "nobody", {"X-Remote-User": "root"})["user"] == "nobody"
    assert over_socket(lab, "www-data", {"X-Remote-User": "games"})["user"] == "games"
    assert over_socket(lab, "www-data", {})["user"] == ""
    # Who is root for the proxy is not root of this machine.
    assert over_socket(lab, "root", {})["admin"]
    assert not over_socket(lab, "www-data", {"X-Remote-User": "root"})["admin"]
    assert over_socket(lab, "www-data", {"X-Remote-User": "a\tb"})["error"]


def test_an_address_proves_nobody(lab: Running) -> None:
    status, body, _ = ask(f"{lab.url}/api/v1/whoami", {"X-Remote-User": "root"})
    assert (status, json.loads(body)["user"]) == (200, "")
    assert ask(f"{lab.url}/metrics")[0] == 401


def test_another_name_of_the_machine_is_refused(lab: Running) -> None:
    host = urllib.parse.urlsplit(lab.url)
    one = http.client.HTTPConnection(str(host.hostname), host.port)
    one.request("GET", "/", headers={"Host": "evil.example"})
    assert one.getresponse().status == 421
    one.close()


def test_nodes_get_their_rates_here(lab: Running) -> None:
    # By any name: the chart's old Service of rates is one.
    status, body, _ = ask(f"{lab.url}/v1/rates?since=0", {"Host": "lab-joulebook-rates:9817"})
    assert status == 200
    document = json.loads(body)
    assert [point["value"] for point in document["price"]["points"]] == [250_000_000]
    assert ask(f"{lab.url}/v1/rates?since=x")[0] == 400


def test_what_scraped_the_collector_still_does(lab: Running) -> None:
    listen = tomllib.loads(lab.config.read_text())["collect"]["listen"]
    status, body, _ = ask(f"http://{listen}/metrics")
    assert status == 200
    assert "joulebook_collect_targets 1" in body
    assert 'joulebook_feed_up{quantity="price"' in body
    assert ask(f"http://{listen}/")[0] == 200


def test_tokens_for_programs(lab: Running) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "joulebook", "lab", "--config", str(lab.config), *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    made = command("--add-token", "prometheus", "--user", "nobody")
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    status, body, _ = ask(f"{lab.url}/metrics", headers)
    assert status == 200, made.stderr
    assert "joulebook_collect_targets 1" in body
    until = time.monotonic() + 120
    while "joulebook_advice_computed_timestamp_seconds 1" not in body:  # its thread has begun
        assert time.monotonic() < until, body
        time.sleep(0.1)
        body = ask(f"{lab.url}/metrics", headers)[1]
    assert "of-games" not in ask(f"{lab.url}/?month=2026-11", headers)[1]
    assert command("--revoke-token", "prometheus").returncode == 0
    assert ask(f"{lab.url}/metrics", headers)[0] == 401


def test_from_the_command_line_to_a_copied_sentence(lab: Running) -> None:
    with chromium() as browser:
        browser.open(lab.url)
        browser.allow("clipboard-write")
        assert "joulebook acct --web" in browser.text()
        browser.open(acct(lab, "nobody", "--web").stdout.strip())
        browser.click("button.main")
        browser.shows("Log out")
        assert browser.url == f"{lab.url}/"
        browser.open(f"{lab.url}/?month=2026-11")
        assert "of-games" not in browser.text()
        browser.click("tbody a")
        browser.shows("of-nobody", "h1")
        browser.shows("of-nobody", "#sentence")
        browser.click("[data-copy]")
        browser.shows("Copied", "[data-copy]")
        browser.click("tbody a")
        browser.shows("Job 201", "h1")
        # A phone: nothing is wider than the window, but for tables, which scroll on their own.
        browser.resize(390, 900)
        for path in (
            "/?month=2026-11", "/me?month=2026-11", "/jobs?month=2026-11", "/job/201",
            "/experiment?name=of-nobody", "/bills", "/bills/2026-11", "/leaderboards",
        ):  # fmt: skip
            browser.open(f"{lab.url}{path}")
            assert browser.run("return document.documentElement.scrollWidth") <= browser.run(
                "return window.innerWidth"
            )
        browser.click("header form button")
        browser.shows("Nobody is logged in")


def test_on_a_phone_no_figure_is_out_of_sight_and_results_are_ranked(lab: Running) -> None:
    with chromium(390, 900) as browser:
        browser.open(acct(lab, "nobody", "--web").stdout.strip())
        browser.click("button.main")
        browser.shows("Log out")
        # Every cell of a table is within the window.
        for path in ("/?month=2026-11", "/bills/2026-11", "/jobs?month=2026-11"):
            browser.open(f"{lab.url}{path}")
            assert browser.run(
                "return [...document.querySelectorAll('td')].filter(each => each.textContent"
                " && each.getBoundingClientRect().right > window.innerWidth).length"
            ) == 0  # fmt: skip
        browser.open(f"{lab.url}/leaderboards")
        browser.run(
            "document.querySelector('[name=name]').value = 'mine';"
            "document.querySelector('[name=results]').value ="
            " 'experiment,run,metric,value\\nof-nobody,201,accuracy,91';"
        )
        browser.click("button.main")
        browser.shows("mine", "h1")
        assert "of-nobody" in browser.text()


def test_an_administrator_corrects_a_bill_in_the_browser(lab: Running) -> None:
    with chromium() as browser:
        browser.open(acct(lab, "root", "--web").stdout.strip())
        browser.click("button.main")
        browser.shows("Log out")
        browser.open(f"{lab.url}/bills/2026-11")
        browser.run(
            "for (const each of document.querySelectorAll('details')) each.open = true;"
            "for (const [name, value] of Object.entries({from: 'phys/nobody/of-nobody',"
            " to: '(unallocated)', kwh: '1', why: 'a <b>test</b>'}))"
            " document.querySelector(`[action$=corrections] [name=${name}]`).value = value;"
        )
        browser.click("[action$=corrections] button.main")
        browser.shows("a <b>test</b>")


def test_pages_ask_for_nothing_elsewhere_and_break_no_rule(lab: Running) -> None:
    with chromium() as browser:
        browser.open(acct(lab, "root", "--web").stdout.strip())
        browser.click("button.main")
        browser.shows("Log out")
        for path in (
            "/?month=2026-11", "/jobs?month=2026-11", "/job/201", "/nodes", "/me", "/bills",
            "/experiment?name=of-games", "/bills/2026-11", "/leaderboards",
        ):  # fmt: skip
            browser.open(f"{lab.url}{path}")
            loaded = browser.run(
                "return performance.getEntriesByType('resource').map(each => each.name)"
            )
            assert loaded
            assert all(each.startswith(lab.url) for each in loaded)
            unnamed = browser.run(
                "return [...document.querySelectorAll('a, button')]"
                ".filter(each => !each.textContent.trim()).length"
            )
            assert unnamed == 0


def told(path: str, answer: Any) -> object:
    """What was answered; rows as they are booked have no order."""
    if not path.startswith("/api/v1/rows") or answer.status_code != 200:
        return answer.content
    return {
        name: sorted(map(repr, value)) if isinstance(value, tuple) else value
        for name, value in msgspec.structs.asdict(wire.DATA.decode(answer.content)).items()
    }


def test_postgresql_answers_as_sqlite_does(postgresql: PostgreSql, tmp_path: Path) -> None:
    urls = filled(tmp_path), filled(tmp_path, url=postgresql.new())
    for user in ("ada", "bob", "root", ""):
        answers = []
        for url in urls:
            with served(url, admins=("root",), coordinators={"nlp": ("bob",)}) as client:
                if user:
                    client.headers.update(bearer(url, user))
                answers.append([(path, found.status_code, told(path, found)) for path in PATHS
                                if (found := client.get(path))])  # fmt: skip
        assert answers[0] == answers[1]


def test_a_page_says_so_while_postgresql_is_down(postgresql: PostgreSql, tmp_path: Path) -> None:
    url = filled(tmp_path, url=postgresql.new())
    with served(url, admins=("root",)) as client:
        client.headers.update(bearer(url, "root"))
        assert client.get("/jobs?month=2026-11").status_code == 200
        postgresql.kill()
        try:
            answer = client.get("/jobs?month=2026-11")
            assert answer.status_code == 503
            assert "cannot be reached" in answer.text
            assert client.get("/api/v1/months").json()["error"]
        finally:
            postgresql.start()
        assert client.get("/jobs?month=2026-11").status_code == 200
