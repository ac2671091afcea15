"""The lab server as a user of this machine sees it: who asks is proved by MUNGE, or by a token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from joulebook import __version__
from joulebook.config import Config
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, HttpFailure, InputError
from joulebook.http_client import Headers, HttpAnswer, Web
from joulebook.lab.collected.bills import PeriodSum
from joulebook.lab.web import munge, wire
from joulebook.lab.web.bill_view import SeenBill
from joulebook.untrusted_files import read_secret

T = TypeVar("T")
Fields = Mapping[str, str]

_MOST_BYTES = 256 * 2**20
_PATIENCE_S = 600.0
"""For the rows of a whole lab; a job's are there at once."""


class LabClient:
    """Asks the lab server; logs in with the first question."""

    def __init__(self, url: str, munge_socket: str = "", token_file: str = "") -> None:
        self.url = url.rstrip("/")
        self._web = Web(timeout_s=60.0, deadline_s=_PATIENCE_S, max_bytes=_MOST_BYTES)
        self._munge_socket = munge_socket
        self._token_file = token_file
        self._token = ""

    def get(self, path: str, fields: Fields) -> dict[str, Any]:
        """Return an answer. Raises `InputError` with what the server says."""
        self._log_in()
        return self._object(self._ask(path, fields))

    def post(self, path: str, fields: Fields) -> dict[str, Any]:
        """Return the answer to a change. Raises `InputError` with what the server says."""
        self._log_in()
        return self._object(self._ask(path, fields, post=True))

    def text(self, path: str, fields: Fields) -> str:
        """Return an answer as it is. Raises `InputError`."""
        self._log_in()
        answer = self._ask(path, fields)
        if answer.status != 200:
            self._object(answer)
        return answer.text

    def rows(self, path: str, fields: Fields, decoder: msgspec.msgpack.Decoder[T]) -> T:
        """Return an answer in MessagePack. Raises `InputError`."""
        self._log_in()
        answer = self._ask(path, fields)
        if answer.status != 200:
            self._object(answer)
        try:
            return decoder.decode(answer.body)
        except msgspec.DecodeError:
            raise InputError(
                f"{self.url}: its answer cannot be read: is it of the version {__version__}, too?",
                reason="answer",
            ) from None

    def link(self) -> str:
        """Return a link that lets a browser in. Raises `InputError`."""
        return str(self.post("/api/v1/link", {})["secret"])

    def _log_in(self) -> None:
        if self._token:
            return
        if self._token_file:
            try:
                self._token = read_secret(Path(self._token_file)).decode("ascii", "replace").strip()
            except OSError as error:
                raise ConfigError(
                    f"lab.token_file: {self._token_file}: cannot be read: {error.strerror}"
                ) from None
            return
        nonce = self._object(self._ask("/api/v1/nonce", post=True))
        credential = munge.encode(
            self.url, str(nonce["nonce"]), int(nonce["server_uid"]), self._munge_socket
        )
        headers = {"Authorization": f"Munge {credential}"}
        answer = self._object(self._ask("/api/v1/session", post=True, headers=headers))
        self._token = str(answer["secret"])

    def _ask(
        self,
        path: str,
        fields: Fields | None = None,
        *,
        post: bool = False,
        headers: Headers = None,
    ) -> HttpAnswer:
        shown = headers or ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        try:
            return self._web.ask(f"{self.url}{path}", dict(fields or {}), shown, post=post)
        except HttpFailure as error:
            raise InputError(f"{self.url}: {error}", reason="down") from None

    def _object(self, answer: HttpAnswer) -> dict[str, Any]:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise InputError(
                f"{self.url}: not a lab server (status {answer.status})", reason="answer"
            ) from None
        if not isinstance(found, dict) or answer.status >= 400:
            said = found.get("error", answer.status) if isinstance(found, dict) else "no object"
            raise InputError(f"{self.url}: {one_line(str(said), 600)}", reason="refused")
        return found


class LabSource:
    """What the lab server has for whoever asks, as a source of reports.

    `hourly` says what needs quarter hours, as other rates do; else days will do for closed months.
    """

    def __init__(self, client: LabClient, hourly: str = "") -> None:
        self._client = client
        self._hourly = hourly

    @property
    def name(self) -> str:
        """What people are shown."""
        return f"lab server {self._client.url}, among what you may see"

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """Return what all nodes booked, as far as the user may see it. Raises `InputError`."""
        fields = {
            "since_utc_s": str(since_s), "until_utc_s": str(until_s), "hourly": self._hourly,
            "selection": msgspec.json.encode(selection).decode(),
        }  # fmt: skip
        return self._client.rows("/api/v1/rows", fields, wire.DATA)


def bill(client: LabClient, month: str, account: str) -> SeenBill:
    """Return the user's lines of a month's bill."""
    fields = {"account": account, "format": "msgpack"}
    return client.rows(f"/api/v1/bills/{month}", fields, wire.BILL)


def periods(client: LabClient) -> list[PeriodSum]:
    """Return the months in which anything of the user's is billed."""
    return client.rows("/api/v1/bills", {"format": "msgpack"}, wire.PERIODS)


def lab_client(url: str | None, config: Config) -> LabClient:
    """Return a client of the lab server at a URL (default: `lab.url`). Raises `ConfigError`."""
    where = url or config.lab.url
    if not where:
        raise ConfigError("lab.url is not set: give --lab URL, or set it for all users")
    if not where.startswith(("http://", "https://")):
        raise ConfigError(f"--lab {one_line(where, 80)}: expected http(s)://host:port")
    return LabClient(where, config.lab.munge_socket, config.lab.token_file)
