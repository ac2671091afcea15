"""A real Prometheus and a real VictoriaMetrics over data that is there already."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.lab.grafana import Ask, Chosen, choices, filled
from tests.ports import free_port


class Server:
    """A program that answers Prometheus' queries on a port of loopback."""

    def __init__(self, name: str, port: int, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                self.instant("vector(1)", 1_700_000_000)
                return self
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.2)
            except BaseException:
                self.__exit__()
                raise
        self.__exit__()
        said = Path(self._log.name).read_text()[-2000:]
        raise AssertionError(f"{self.name} did not come up: {said}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def instant(self, expression: str, at_s: int) -> list[dict[str, Any]]:
        """The vector at an instant."""
        return self._ask("query", query=expression, time=str(at_s))

    def over(self, expression: str, t0_s: int, t1_s: int, step_s: int) -> list[dict[str, Any]]:
        """The series over a range."""
        return self._ask(
            "query_range", query=expression, start=str(t0_s), end=str(t1_s), step=str(step_s)
        )

    def answer(self, ask: Ask) -> list[dict[str, Any]]:
        """What a query of a dashboard gives."""
        if ask.step_s:
            return self.over(ask.expression, ask.start_s, ask.end_s, ask.step_s)
        return self.instant(ask.expression, ask.end_s)

    def chosen(
        self,
        board: Mapping[str, Any],
        values: Mapping[str, Chosen],
        end_s: int,
        span_s: int,
        scrape_s: int,
    ) -> dict[str, Chosen]:
        """The values of all variables: those given, and what the hidden ones of a dashboard take,
        one after another, since one may follow from another.
        """
        known = dict(values)
        for name, expression in choices(board).items():
            if name not in values:
                (found,) = self.instant(filled(expression, known, span_s, 60, scrape_s), end_s)
                known[name] = found["metric"][name]
        return known

    def _ask(self, path: str, **how: str) -> list[dict[str, Any]]:
        body = urllib.parse.urlencode(how).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", body)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it still reads what is there
                raise
            said = error.read().decode()
            raise AssertionError(f"{self.name}: {how['query']}: {said}") from None

    def values(self, metric: str, label: str, start_s: int, end_s: int) -> list[str]:
        """The values of a label in a range, as the lists of dashboards ask for them."""
        how = urllib.parse.urlencode({"match[]": metric, "start": start_s, "end": end_s})
        url = f"{self.url}/api/v1/label/{label}/values?{how}"
        with urllib.request.urlopen(url, timeout=300) as answer:
            found: list[str] = json.load(answer)["data"]
            return found

    def post(self, path: str, body: bytes) -> None:
        """Send something to be taken in."""
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, body), timeout=300
        ) as answer:
            assert answer.status in (200, 204)


def prometheus(home: Path) -> Server:
    """Prometheus over `home/data`; nothing is scraped, nothing ever goes."""
    port = free_port()
    (home / "prometheus.yml").write_text("global: {scrape_interval: 60s}\n")
    return Server(
        "prometheus",
        port,
        [
            "prometheus",
            f"--config.file={home}/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            "--query.timeout=5m",
        ],
        home / "prometheus.log",
    )


def victoria(home: Path) -> Server:
    """VictoriaMetrics over `home/victoria`."""
    port = free_port()
    return Server(
        "victoria-metrics",
        port,
        [
            "victoria-metrics",
            f"-storageDataPath={home}/victoria",
            "-retentionPeriod=100y",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-search.latencyOffset=0s",
            "-search.maxQueryDuration=5m",
            "-memory.allowedBytes=1GiB",
        ],
        home / "victoria.log",
    )
