"""Leaderboards of uploaded and linked results: own energy only, and the command's figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.unit.lab.web.served import bearer, filled, served
from tests.unit.lab.web.test_bills import HOSTILE, session

from joulebook import cli
from joulebook.lab.collected.database import opened

RESULTS = "experiment,run,metric,value\nbert,101,accuracy,91\nvit,103,accuracy,80\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return filled(tmp_path)


@pytest.fixture
def client(url: str, tmp_path: Path) -> Iterator[TestClient]:
    linked = tmp_path / "linked.csv"
    linked.write_text(RESULTS)
    with served(url, admins=("root",), results={"site": str(linked)}) as made:
        made.follow_redirects = False
        yield made


def kept(url: str) -> list[tuple[object, ...]]:
    with opened(url) as database:
        return [tuple(row) for row in database.rows("SELECT id, person, name FROM lab_results")]


def test_uploaded_results_are_ranked_as_the_command_does(
    client: TestClient, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = bearer(url, "root")
    done = client.post(
        "/api/v1/leaderboards", headers=root, data={"name": "cv", "results": RESULTS}
    )
    assert done.json()["id"] == "1"
    (tmp_path / "results.csv").write_text(RESULTS)
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", url)
    for form in ("json", "csv", "markdown"):
        told = client.get(f"/api/v1/leaderboards/1?format={form}", headers=root).text
        assert cli.main(["leaderboard", str(tmp_path / "results.csv"), "--format", form]) == 0
        said = capsys.readouterr().out
        if form == "json":
            assert json.loads(told) == json.loads(said)
        else:
            assert told.strip() == said.strip()
        assert "bert" in told
    page = client.get("/leaderboards/1", headers=root).text
    assert "kWh" in page
    assert "EUR" in page
    assert "data:image/svg+xml;base64," in page
    listed = client.get("/api/v1/leaderboards", headers=root).json()
    assert [(each["id"], each["owner"]) for each in listed] == [("1", "root"), ("site:site", "")]


def test_a_user_sees_own_results_with_own_energy(client: TestClient, url: str) -> None:
    ada, bob, root = (bearer(url, name) for name in ("ada", "bob", "root"))
    data = {"name": "mine", "results": RESULTS}
    assert client.post("/api/v1/leaderboards", headers=ada, data=data).status_code == 200
    assert client.post("/api/v1/leaderboards", headers=bob, data=data).json()["id"] == "2"
    found = client.get("/api/v1/leaderboards/1", headers=ada).json()
    assert [each["name"] for board in found["boards"] for each in board["results"]] == [
        "bert / 101"
    ]
    # What others uploaded is not there, and what they ran has no energy.
    assert client.get("/api/v1/leaderboards/2", headers=ada).status_code == 404
    assert client.get("/leaderboards/2", headers=ada).status_code == 404
    assert client.post("/api/v1/leaderboards/2/remove", headers=ada).status_code == 404
    assert len(client.get("/api/v1/leaderboards", headers=ada).json()) == 2
    assert len(client.get("/api/v1/leaderboards", headers=root).json()) == 3
    linked = client.get("/api/v1/leaderboards/site:site", headers=ada).text
    assert "bert" in linked
    assert "vit" not in linked
    assert "vit" in client.get("/api/v1/leaderboards/site:site", headers=root).text
    assert "bert" in client.get("/leaderboards/site:site", headers=ada).text
    assert client.post("/api/v1/leaderboards/1/remove", headers=ada).status_code == 200
    assert kept(url) == [(2, "bob", "mine")]
    assert client.get("/leaderboards").status_code == 401


def test_results_of_a_name_are_replaced_on_the_page(client: TestClient, url: str) -> None:
    ada = session(url, "ada")
    page = client.get("/leaderboards", headers=ada).text
    token = page.partition('name="form" value="')[2][:64]
    for better in ("higher", "lower"):
        done = client.post("/leaderboards", headers=ada, data={
            "form": token, "name": "one", "results": RESULTS.replace("accuracy", "thing"),
            "better": better, "metric": "", "unit": "plain", "by": "",
        })  # fmt: skip
        assert (done.status_code, done.headers["location"]) == (303, "/leaderboards/1")
    assert kept(url) == [(1, "ada", "one")]
    assert client.post("/leaderboards/1/remove", headers=ada).status_code == 403
    done = client.post("/leaderboards/1/remove", headers=ada, data={"form": token})
    assert done.headers["location"] == "/leaderboards"
    assert kept(url) == []


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        ({"name": "", "results": RESULTS}, 400, "expected 1 to 80"),
        ({"name": "x" * 81, "results": RESULTS}, 400, "expected 1 to 80"),
        ({"name": HOSTILE, "results": RESULTS}, 400, "on a line"),
        ({"name": "a", "results": ""}, 400, "no column"),
        ({"name": "a", "results": HOSTILE}, 400, "no column experiment"),
        ({"name": "a", "results": "experiment,run,metric,value\n"}, 400, "no row"),
        ({"name": "a", "results": "experiment,run,metric,value\na,b,c,d\n"}, 400, "finite number"),
        ({"name": "a", "results": "---\nmodel-index: *a\n---\n"}, 400, "not YAML"),
        ({"name": "a", "results": RESULTS, "by": HOSTILE}, 400, "run or experiment"),
        ({"name": "a", "results": RESULTS, "url": "http://x"}, 400, "unknown field 'url'"),
        ({"name": "a", "results": RESULTS + "x" * 1_100_000}, 413, "at most"),
    ],
)
def test_what_is_no_result_is_said_and_not_kept(
    client: TestClient, url: str, data: dict[str, str], status: int, said: str
) -> None:
    answer = client.post("/api/v1/leaderboards", headers=bearer(url, "ada"), data=data)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert kept(url) == []


def test_a_person_keeps_some_results_and_no_more(client: TestClient, url: str) -> None:
    with opened(url) as database:
        database.many(
            "INSERT INTO lab_results VALUES (?, 'ada', ?, ?, '[]', 0)",
            [(n, f"r{n}", RESULTS) for n in range(1, 51)],
        )
    data = {"name": "more", "results": RESULTS}
    full = client.post("/api/v1/leaderboards", headers=bearer(url, "ada"), data=data)
    assert (full.status_code, "remove some first" in full.text) == (400, True)
    assert client.post("/api/v1/leaderboards", headers=bearer(url, "bob"), data=data).is_success


def test_a_hostile_result_is_text_on_the_page(client: TestClient, url: str) -> None:
    ada = bearer(url, "ada")
    head, image = RESULTS.partition("\n")[0], "<img src=x onerror=a()>"
    text = f"{head}\n{image},101,accuracy,3\nbert,101,accuracy,91\n"
    data = {"name": "<b>bold</b>", "results": text}
    assert client.post("/api/v1/leaderboards", headers=ada, data=data).is_success
    for path in ("/leaderboards", "/leaderboards/1"):
        told = client.get(path, headers=ada).text
        assert "<img src=x" not in told
        assert "<b>bold" not in told
        assert "&lt;b&gt;bold" in told


@pytest.mark.parametrize("board", ["0", "9" * 30, "site:none", "site:", "../x", "%00", HOSTILE[:8]])
def test_what_is_not_there_is_said(client: TestClient, url: str, board: str) -> None:
    for path in (f"/api/v1/leaderboards/{board}", f"/leaderboards/{board}"):
        assert client.get(path, headers=bearer(url, "ada")).status_code == 404
