"""Every route that the server has, asked by everybody: no byte of anybody else's is answered.

Routes and their parameters are read from the application, so that a new one is tried by itself.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import quote, urlencode

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from tests.scale import SCALE
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node
from tests.unit.lab.collected.test_forget import dump
from tests.unit.lab.web.served import NOW_S, bearer, filled, served

from joulebook.core.money.amounts import Exact
from joulebook.lab.collected.database import opened
from joulebook.lab.leaderboard.ranked import Asked
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_KWH


class Person(NamedTuple):
    """Somebody with one job; each of the words is nobody else's."""

    name: str
    account: str
    experiment: str
    job: str
    kwh: str
    title: str

    @property
    def words(self) -> tuple[str, ...]:
        """What nobody else may read, figures among it."""
        return (*self[:1], *self[2:])

    @property
    def energy_uj(self) -> int:
        """The energy of the job."""
        return int(float(self.kwh) * UJ_PER_KWH)


PEOPLE = (
    Person("alyssa", "shared-acct", "exp-alyssa", "710001", "3791.53", "title-alyssa"),
    Person("ben-bit", "shared-acct", "exp-benbit", "720002", "5823.71", "title-benbit"),
    Person("cy-d-fect", "other-acct", "exp-cydfect", "730003", "7147.19", "title-cydfect"),
)
MINE, SHARED, OTHER = PEOPLE
VALUES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("user", "person"), tuple(each.name for each in PEOPLE)),
    "account": ("shared-acct", "other-acct"),
    **dict.fromkeys(("experiment", "name"), tuple(each.experiment for each in PEOPLE)),
    "job": tuple(each.job for each in PEOPLE),
    "month": ("2026-11", "2026-10"),
    "since": ("2026-11-01",),
    "until": ("2026-12-01",),
    "starttime": ("2026-11-01",),
    "endtime": ("2026-12-01",),
    "first": ("2026-01",),
    "last": ("2026-12",),
    "secret": ("none",),
    "board": ("1", "2", "3", "site:none"),
    "cluster": ("", "lab"),
    "selection": ("{}", '{"users": ["cy-d-fect"]}', '{"jobs": ["730003"]}'),
}
"""What parameters are tried with, by name; others with their default and each of their words."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    node = Node("n1", "a" * 32, "lab")
    for each in PEOPLE:
        start_ns = (NOVEMBER_S + 3600) * NS_PER_S
        node.label(
            each.job, each.account, each.name, each.experiment, name=each.title, named=True,
            started_utc_ns=start_ns, ended_utc_ns=start_ns + NS_PER_HOUR, complete=True,
            extra={"folder": f"/home/{each.name}"},
        )  # fmt: skip
        node.burn(NOVEMBER_S + 3600, each.energy_uj, each.job, Exact(1, 0, 0), NS_PER_HOUR)
    url = filled(tmp_path_factory.mktemp("routes"), node)
    with opened(url) as database:
        for n, each in enumerate(PEOPLE, start=1):
            text = f"experiment,run,metric,value\n{each.experiment},{each.job},accuracy,0.5\n"
            row = (n, each.name, f"by {each.name}", text, json.dumps(Asked()), NOW_S)
            database.upsert("lab_results", [row])
    return url


def routes(app: FastAPI) -> list[APIRoute]:
    """Every route that is read, the pages among them."""
    found = [route for route in within(app.routes) if "GET" in (route.methods or ())]
    documented = {route.path for route in found if route.include_in_schema}
    of_api = {path for path, methods in app.openapi()["paths"].items() if "get" in methods}
    assert documented == of_api, "all that the OpenAPI document has"
    return found


def within(there: Iterable[object]) -> Iterator[APIRoute]:
    """Yield the routes of an application and of the routers in it."""
    for route in there:
        if isinstance(route, APIRoute):
            yield route
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from within(router.routes)


def requests(route: APIRoute, lot: random.Random) -> Iterator[str]:
    """Yield paths: each value of each parameter, those beside it at random."""
    flat = route.dependant
    given = [*flat.path_params, *flat.query_params]
    values = {each.name: choices(each, route.path) for each in given}
    for name, value in itertools.chain(
        [("", "")], ((name, value) for name, some in values.items() for value in some)
    ):
        yield asked(route, {name: value} if name else {}, lot)


def asked(route: APIRoute, fixed: Mapping[str, str], lot: random.Random) -> str:
    """Return a path with these values; those beside them at random."""
    flat = route.dependant
    chosen = {}
    for each in (*flat.path_params, *flat.query_params):
        some = choices(each, route.path)
        if each.field_info.is_required() or (some and lot.random() < 0.3):
            chosen[each.name] = lot.choice(some)
    chosen |= fixed
    path = route.path
    for each in flat.path_params:
        path = path.replace(f"{{{each.name}}}", quote(chosen.pop(each.name), safe=""))
    return f"{path}?{urlencode(chosen)}" if chosen else path


def choices(parameter: Any, path: str) -> tuple[str, ...]:
    """The values that a parameter is tried with."""
    words = get_args(parameter.field_info.annotation)
    if get_origin(parameter.field_info.annotation) is Literal:
        return tuple(map(str, words))
    known = VALUES.get(parameter.name, ())
    assert known or not parameter.field_info.is_required(), (
        f"{path}: give VALUES some for {parameter.name}"
    )
    return known


def ask_all(client: TestClient, hidden: tuple[str, ...], seed: int) -> dict[str, set[int]]:
    """Ask everything; the statuses that each route answered with."""
    lot, found = random.Random(seed), dict[str, set[int]]()
    for route in routes(client.app):  # type: ignore[arg-type]
        for path in requests(route, lot):
            answer = client.get(path, follow_redirects=False)
            told = f"{answer.headers}\n{answer.text}"
            for word in hidden:
                # Whoever asks for a name may read it: as they wrote it, that says nothing.
                assert word in path or word not in told, path
            found.setdefault(route.path, set()).add(answer.status_code)
    return found


@pytest.mark.parametrize("seed", range(SCALE))
def test_a_user_reads_nothing_of_others(url: str, seed: int) -> None:
    with served(url, coordinators={"other-acct": ("head",)}) as client:
        client.headers.update(bearer(url, MINE.name))
        answered = ask_all(client, (*figures(SHARED), *figures(OTHER), OTHER.account), seed)
        assert {path for path, statuses in answered.items() if 200 in statuses} >= {
            "/", "/jobs", "/job/{job}", "/experiment", "/api/v1/jobs", "/api/v1/months/{month}"
        }  # fmt: skip
        assert not [path for path, statuses in answered.items() if max(statuses) >= 500]
        client.headers.update(bearer(url, "head"))
        ask_all(client, (*figures(MINE), *figures(SHARED), MINE.account), seed)


@pytest.mark.parametrize("seed", range(SCALE))
def test_nobody_reads_nothing(url: str, seed: int) -> None:
    everything = tuple(word for each in PEOPLE for word in (*figures(each), each.account))
    with served(url) as client:
        ask_all(client, everything, seed)
    with served(url, public=("totals",)) as client:
        ask_all(client, everything, seed)


def figures(person: Person) -> tuple[str, ...]:
    """A person's words, and their energy as it is written anywhere."""
    whole, _, part = person.kwh.partition(".")
    grouped = f"{whole[0]},{whole[1:]}"
    return (*person.words, f"{grouped}.{part[0]}", f"{whole[0]}.{whole[1:]}", str(person.energy_uj))


def test_administrators_read_all_of_it(url: str) -> None:
    """What is looked for is there to be found."""
    with served(url, admins=("root",)) as client:
        client.headers.update(bearer(url, "root"))
        told = "".join(
            client.get(path).text
            for route in routes(client.app)  # type: ignore[arg-type]
            for path in requests(route, random.Random(1))
        )
    for each in PEOPLE:
        assert not [word for word in each.words[:4] if word not in told]
        assert str(each.energy_uj) in told


HOSTILE = (
    "'; DROP TABLE owners; --", "<script>alert(1)</script>", "\x00", "\r\nX-Evil: 1", "\u202e",
    "é" * 200, "%", "{{7*7}}", "../../etc/passwd", "9" * 400, "-1", "NaN", " ",
)  # fmt: skip


def test_hostile_words_are_refused_or_are_words(url: str) -> None:
    with served(url, admins=("root",)) as client, opened(url) as database:
        client.headers.update(bearer(url, "root"))
        before, lot = dump(database), random.Random(1)
        for route in routes(client.app):  # type: ignore[arg-type]
            given = [*route.dependant.path_params, *route.dependant.query_params]
            words = HOSTILE if SCALE > 1 else lot.sample(HOSTILE, 4)
            for parameter, word in itertools.product(given, words):
                path = asked(route, {parameter.name: word}, lot)
                answer = client.get(path, follow_redirects=False)
                assert answer.status_code < 500, path
                assert "X-Evil" not in answer.headers
                if "html" in answer.headers.get("content-type", ""):
                    assert "<script>alert" not in answer.text
                    assert "\u202e" not in answer.text
        assert dump(database) == before


def test_hostile_headers_let_nobody_in(url: str) -> None:
    names = ("Authorization", "Cookie", "X-Remote-User", "X-Forwarded-User", "Remote-User",
             "X-Joulebook-Proxy-Secret", "X-Joulebook-Token", "X-Forwarded-For")  # fmt: skip
    values = ("root", "Basic cm9vdDpyb290", "Bearer root", "Bearer a.b.c", "Munge MUNGE:AAAA:",
              "joulebook-session=root", "joulebook-session=", "\u00e9" * 50,
              "127.0.0.1")  # fmt: skip
    with served(url, admins=("root",), proxy_user="www-data") as client:
        for name, value in itertools.product(names, values):
            headers = {name.encode(): value.encode("latin-1")}
            answer = client.get("/api/v1/whoami", headers=headers)
            assert answer.status_code in {200, 401}
            if answer.status_code == 200:
                assert (answer.json()["user"], answer.json()["admin"]) == ("", False)
            assert client.get("/jobs", headers=headers).status_code == 401


def test_bad_input_is_told(url: str) -> None:
    wrong = {"Authorization": "Bearer " + "x" * 43}
    with served(url) as client:
        for path in (
            "/api/v1/jobs?since=2026-11-01&until=2026-12-01",
            "/",
            "/jobs",
            "/api/v1/whoami",
        ):
            answer = client.get(path, headers=wrong)
            assert answer.status_code == 401
            assert "the token is not known here" in answer.text
        for hostile in ("\x7f", "é", "a" * 9000, "'; DROP TABLE owners; --", "Bearer Bearer"):
            headers = {b"Authorization": f"Bearer {hostile}".encode()}
            assert client.get("/api/v1/whoami", headers=headers).status_code == 401
        assert client.get("/enter/none").status_code == 403
        assert client.post("/enter/none").status_code == 403
        assert client.post("/api/v1/link").status_code == 401
