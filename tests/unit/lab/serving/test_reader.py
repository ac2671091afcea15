"""From servers and a Prometheus to tokens in the ledger: who is asked, and what fails alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.lab.collected.test_served import NOW_S, PODS, collect, node

from joulebook.config.lab_server import ServingSection, ServingTarget
from joulebook.errors import FeedDown, HttpFailure
from joulebook.http_client import HttpAnswer
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.serving.find import ModelServer
from joulebook.lab.serving.metrics import families
from joulebook.lab.serving.reader import ServingReader

ANSWER = 'vllm:generation_tokens_total{{model_name="m"}} {}\n'


class Servers:
    """A finder of servers, and the web in which they answer."""

    def __init__(self, *found: ModelServer) -> None:
        self.found = list(found)
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []

    def servers(self) -> list[ModelServer]:
        return self.found

    def get(self, url: str) -> bytes:
        self.asked.append(url)
        if url not in self.answers:
            raise FeedDown(f"{url}: cannot be reached", reason="down")
        return self.answers[url].encode()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A collected ledger in which two pods run."""
    url = f"sqlite://{tmp_path}/all.db"
    with connect(url, create=True) as database:
        collect(database, node())
    return url


def reader(url: str, *finders: Servers, **settings: object) -> tuple[ServingReader, list[int]]:
    """A reader of them, and its clock."""
    clock = [NOW_S]
    made = ServingReader(
        ServingSection(**settings),  # type: ignore[arg-type]
        functools.partial(connect, url),
        [*finders],
        lambda: clock[0],
    )
    if finders:
        made._web = finders[0]  # type: ignore[assignment]
    return made, clock


def tokens_of(url: str) -> dict[tuple[str, str], int]:
    with opened(url) as database:
        return {
            (experiment, kind): count
            for experiment, kind, count in database.rows(
                "SELECT experiment, item, whole FROM serving_totals"
            )
        }


def test_only_servers_of_running_workloads_are_asked(url: str) -> None:
    web = Servers(
        ModelServer(PODS[0], "", ("http://10.0.0.1:1/metrics", "http://10.0.0.1:1/other")),
        ModelServer(PODS[1], "", ("http://10.0.0.2:1/metrics",)),
        ModelServer("stranger.00000000", "", ("http://10.0.0.3:1/metrics",)),
    )
    made, clock = reader(url, web)
    for count in (100, 130):
        web.answers["http://10.0.0.1:1/other"] = ANSWER.format(count)
        made.once()
        clock[0] += 60
    # One is down: that is its own affair, counted and said once.
    assert tokens_of(url) == {("llama", "output"): 30}
    assert not any("10.0.0.3" in each for each in web.asked)
    assert made.errors == {"down": 2}
    assert made.read == 1


@pytest.mark.parametrize(
    "answer", ["<html>", "vllm:prompt_tokens_total{", "\x00\xff", "vllm:prompt_tokens_total 1e999"]
)
def test_an_answer_that_is_none_stops_nothing(url: str, answer: str) -> None:
    web = Servers(ModelServer(PODS[0], "", ("http://10.0.0.1:1/metrics",)))
    web.answers["http://10.0.0.1:1/metrics"] = answer
    made, _ = reader(url, web)
    made.once()
    assert sum(made.errors.values()) == 1
    assert tokens_of(url) == {}


def test_what_is_configured_wins_over_what_is_found(url: str) -> None:
    """A pod that is configured, too, is not counted twice; its model may be named there."""
    own = Servers(ModelServer(PODS[0], "", ("http://llama:1/metrics",), "ours"))
    found = Servers(ModelServer(PODS[0], "", ("http://10.0.0.1:1/metrics",)))
    made, clock = reader(url, own, found)
    for count in (100, 130):
        own.answers["http://llama:1/metrics"] = f"llamacpp:tokens_predicted_total {count}\n"
        made.once()
        clock[0] += 60
    assert own.asked == ["http://llama:1/metrics"] * 2
    with opened(url) as database:
        assert database.rows("SELECT model_name, whole FROM serving_totals") == [("ours", 30)]


def prometheus(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[dict[str, str]]], value: list[int]
) -> None:
    """A Prometheus that has those series."""

    def ask(*_: object, **__: object) -> HttpAnswer:
        own = {"__name__": "vllm:generation_tokens_total", "model_name": "m"}
        result = [{"metric": own | each, "value": [0, str(value[0])]} for each in answer()]
        said = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return HttpAnswer(200, json.dumps(said).encode())

    monkeypatch.setattr("joulebook.http_client.Web.ask", ask)


def test_a_prometheus_that_scrapes_the_servers_already(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = {"namespace": "nlp", "pod": "llama", "instance": "10.0.0.1:8000"}
    value = [100]
    prometheus(
        monkeypatch,
        lambda: [
            {**pod, "job": "a"},
            {**pod, "job": "b", "prometheus_replica": "1"},  # scraped twice
            {**pod, "instance": "10.0.0.1:8001", "job": "a"},  # a second server in the pod
            {**pod, "namespace": "vision"},  # not of the ledger
            {"job": "no pod"},
        ],
        value,
    )
    made, clock = reader(url, prometheus="http://prometheus:9090")
    made.once()
    clock[0] += 60
    value[0] = 130
    made.once()
    assert tokens_of(url) == {("llama", "output"): 60}


def test_a_server_of_a_pod_that_is_not_scraped_once_is_no_restart_of_the_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = {"namespace": "nlp", "pod": "llama"}
    there = [{**pod, "instance": "10.0.0.1:8000"}, {**pod, "instance": "10.0.0.1:8001"}]
    value = [1000]
    prometheus(monkeypatch, lambda: there, value)
    made, clock = reader(url, prometheus="http://prometheus:9090")
    for servers in (there[:], there[:1], there[:]):
        there[:] = servers
        made.once()
        clock[0] += 60
    assert tokens_of(url) == {("llama", "output"): 0}
    value[0] = 1010
    made.once()
    assert tokens_of(url) == {("llama", "output"): 20}
    # Addresses are the words of users, too.
    there[:] = [{**pod, "instance": f"10.0.0.1:{n}"} for n in range(1000)]
    made.once()
    assert made.read == 16


def test_a_prometheus_that_is_down_stops_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> HttpAnswer:
        raise HttpFailure("cannot be reached", reason="unreachable")

    monkeypatch.setattr("joulebook.http_client.Web.ask", ask)
    made, _ = reader(url, prometheus="http://prometheus:9090")
    made.once()
    assert made.errors == {"prometheus": 1}


def test_servers_of_the_configuration_and_what_is_exposed(url: str) -> None:
    target = ServingTarget("http://llama:1/metrics", PODS[0])
    web = Servers()
    made, clock = reader(url)
    made = ServingReader(
        ServingSection(targets={"llama": target}),
        functools.partial(connect, url),
        now_s=lambda: clock[0],
    )
    made._web = web  # type: ignore[assignment]
    for prompt, output in ((100, 10), (400, 30)):
        web.answers[target.url] = (
            f'vllm:prompt_tokens_total{{model_name="m"}} {prompt}\n'
            f'vllm:generation_tokens_total{{model_name="m"}} {output}\n'
            f'vllm:request_success_total{{model_name="m",finished_reason="stop"}} {output // 10}\n'
        )
        made.once()
        clock[0] += 60
    with opened(url) as database:
        shown = {
            family.metric.name: family.samples
            for family in families(database, NOW_S, made, {"x": 1.0, "m*": 0.5}, "EUR")
            if family.samples
        }
        gone = families(database, NOW_S + 10 * 86_400, None, {}, "EUR")
    of = ("", "nlp", "llama", "m")
    assert shown == {
        "joulebook_serving_tokens_total": [((*of, "output"), 20), ((*of, "prompt"), 300)],
        "joulebook_serving_requests_total": [(of, 2)],
        "joulebook_serving_cost_limit": [((*of, "EUR"), 0.5)],
        "joulebook_serving_servers": [((), 1)],
    }
    assert not any(family.samples for family in gone)
