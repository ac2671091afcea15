"""Who asks by a token of Kubernetes: the real client, TLS, and an API server in small."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.fakes.kube_api.server import FakeApi
from tests.unit.lab.web.served import filled, node, served

from joulebook.errors import InputError
from joulebook.kubernetes_api.server import ApiServer
from joulebook.lab.web import kubernetes
from joulebook.lab.web.kubernetes import AUDIENCE, Reviews

ADA, BOB = "e30.ada.sig", "e30.bob.sig"
JOBS = "/api/v1/jobs?since=2026-11-01&until=2026-12-01"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi(tmp_path / "account") as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        api.reviews[ADA] = known("ada")
        api.reviews[BOB] = known("bob", "lab:heads")
        yield api


class Clock:
    """Seconds, as a test sets them."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(api: FakeApi, clock: Clock, tmp_path: Path) -> Iterator[TestClient]:
    """The lab server on a ledger of a cluster; its namespaces are accounts."""
    made = node()
    for name, row in made.workloads.items():
        made.workloads[name] = msgspec.structs.replace(row, scheduler="kubernetes")
    url = filled(tmp_path, made)
    with served(url, Reviews(ApiServer(api.service_account), clock)) as client:
        yield client


def known(name: str, *groups: str, audiences: tuple[str, ...] = (AUDIENCE,)) -> dict[str, object]:
    """What an API server says of a token that it knows."""
    user = {"username": name, "uid": "u-1", "groups": [*groups], "extra": {"scopes": ["a"]}}
    return {"authenticated": True, "user": user, "audiences": [*audiences]}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_shows_ones_own_jobs(api: FakeApi, clock: Clock, client: TestClient) -> None:
    jobs = client.get(JOBS, headers=bearer(ADA)).json()["jobs"]
    assert [job["user"] for job in jobs] == ["ada"]
    (review, *access) = api.asked
    assert review["spec"] == {"token": ADA, "audiences": [AUDIENCE]}
    asked = {each["spec"]["resourceAttributes"]["namespace"] for each in access}
    assert asked == {"", "nlp", "vision"}
    # For a minute it is not asked again; then it is, and a token that has ended is of no use.
    api.reviews.clear()
    assert client.get(JOBS, headers=bearer(ADA)).status_code == 200
    clock.now_s += 61
    assert client.get(JOBS, headers=bearer(ADA)).status_code == 401


def test_who_may_list_the_pods_of_a_namespace_coordinates_it(
    api: FakeApi, client: TestClient
) -> None:
    api.listers.add(("bob", "nlp"))
    who = client.get("/api/v1/whoami", headers=bearer(BOB)).json()
    assert (who["user"], who["how"], who["coordinates"]) == ("bob", "kubernetes", ["nlp"])
    jobs = client.get(JOBS, headers=bearer(BOB)).json()["jobs"]
    assert {job["user"] for job in jobs} == {"ada", "grace", "bob"}
    spec = api.asked[-1]["spec"]
    assert (spec["user"], spec["uid"], spec["groups"]) == ("bob", "u-1", ["lab:heads"])
    assert spec["extra"] == {"scopes": ["a"]}
    # The browser that they open sees the same.
    link = client.post("/api/v1/link", headers=bearer(BOB)).json()["secret"]
    path = link.removeprefix("http://testserver")
    assert client.post(path, follow_redirects=False).status_code == 303
    assert client.get("/api/v1/whoami").json()["coordinates"] == ["nlp"]
    assert client.post("/api/v1/link").status_code == 403, "a session does not renew itself"


def test_who_may_list_all_pods_coordinates_all(api: FakeApi, client: TestClient) -> None:
    api.listers.add(("ada", ""))
    who = client.get("/api/v1/whoami", headers=bearer(ADA)).json()
    assert who["coordinates"] == ["nlp", "vision"]
    assert not who["admin"]
    assert api.calls["create subjectaccessreviews"] == 1


def test_root_of_a_cluster_is_not_root_of_this_machine(api: FakeApi, client: TestClient) -> None:
    api.reviews[ADA] = known("root")
    assert not client.get("/api/v1/whoami", headers=bearer(ADA)).json()["admin"]


UNCONFIRMED: list[tuple[dict[str, object], str]] = [
    ({"authenticated": False}, "does not know"),
    ({}, "does not know"),
    ({**known("ada"), "error": "expired"}, "does not know"),
    (known("ada", audiences=()), "audience joulebook-lab"),
    (known("ada", audiences=("https://kubernetes.default.svc",)), "audience joulebook-lab"),
    ({"authenticated": True, "user": {"username": "ada"}}, "audience joulebook-lab"),
    ({**known("ada"), "audiences": None}, "audience joulebook-lab"),
    (known(""), "no usable name"),
    (known("ada\nroot"), "no usable name"),
    (known("a" * 5000), "no usable name"),
]


def test_what_the_api_server_does_not_confirm_is_refused(api: FakeApi, client: TestClient) -> None:
    for status, said in UNCONFIRMED:
        api.reviews[ADA] = status
        for path in (JOBS, "/api/v1/whoami"):
            answer = client.get(path, headers=bearer(ADA))
            assert answer.status_code == 401, status
            assert said in answer.json()["error"]
    assert api.calls["create subjectaccessreviews"] == 0


def test_an_api_server_that_may_not_be_asked_lets_nobody_in(
    api: FakeApi, client: TestClient
) -> None:
    for resource in ("tokenreviews", "subjectaccessreviews"):
        api.forbidden = {resource}
        answer = client.get(JOBS, headers=bearer(ADA))
        assert answer.status_code == 503
        assert "403" in answer.json()["error"]
        assert ADA not in answer.text
    api.forbidden.clear()
    assert client.get(JOBS, headers=bearer(ADA)).status_code == 200


def test_nonsense_and_silence_let_nobody_in(
    api: FakeApi, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nonsense in ({"authenticated": "yes"}, {"authenticated": True, "user": 7}, [1]):
        api.reviews[ADA] = nonsense  # type: ignore[assignment]
        assert client.get(JOBS, headers=bearer(ADA)).status_code == 503
    monkeypatch.setattr(kubernetes, "_WITHIN_S", 0.2)
    waiting = threading.Event()
    monkeypatch.setattr(FakeApi, "accepts", lambda *_: waiting.wait(20))
    assert client.get(JOBS, headers=bearer(ADA)).status_code == 503
    waiting.set()
    api.stop()
    assert client.get(JOBS, headers=bearer(ADA)).status_code == 503


def test_invented_tokens_are_asked_about_so_often_only(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "MOST_REVIEWS", 20)
    reviews = Reviews(ApiServer(api.service_account), Clock())
    refused = 0
    for n in range(kubernetes.MOST_REVIEWS + 5):
        try:
            reviews.user(f"a.b.{n}", tuple)
        except InputError as error:
            refused += error.reason == "busy"
    assert refused == 5
    assert api.calls["create tokenreviews"] == kubernetes.MOST_REVIEWS
