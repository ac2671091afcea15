"""One collection of the API server, listed once and then watched, in a thread of its own.

A list costs the API server a reading of its cache (`resourceVersion=0`), a watch one connection;
bookmarks keep the version fresh, so that a watch that ends can be resumed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from joulebook.backoff import LastingThread, pause_s
from joulebook.http_client import HttpStream
from joulebook.kubernetes_api.server import ApiError, ApiServer, body, lines
from joulebook.log import LogOnce

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LIST_READ_S = 30.0
WATCH_S = 3000
"""The API server ends a watch after so long (spread, so that not all nodes come at once)."""

WATCH_READ_S = 300.0
"""Bookmarks come every minute: a watch that is silent for so long is dead."""

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 60.0
FORBIDDEN_S = 300.0


class WatchListener(Protocol[Item]):
    """The receiver of events, called from the watching thread."""

    def listed(self, items: list[Item]) -> None:
        """Receive all current objects."""

    def changed(self, item: Item) -> None:
        """One is new, or is not as it was."""

    def deleted(self, item: Item) -> None:
        """One is no more."""


class Collection(NamedTuple, Generic[Item]):
    """What is watched: its path for each version of the API to try, and which objects."""

    name: str
    paths: tuple[str, ...]
    query: Mapping[str, str]
    decoders: Decoders[Item]


class _ListMeta(msgspec.Struct, gc=False, rename="camel"):
    resource_version: str = ""


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct, gc=False):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


class _Status(msgspec.Struct, gc=False):
    code: int = 0
    message: str = ""


_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_STATUS = msgspec.json.Decoder(_Status)


class Decoders(Generic[Item]):
    """Decoders of one type of object and of lists of it, made at import (see `decoding`)."""

    def __init__(self, item: type[Item]) -> None:
        self.item = msgspec.json.Decoder(item)
        self.list: Any = msgspec.json.Decoder(
            msgspec.defstruct(
                "List",
                [
                    ("metadata", _ListMeta, msgspec.field(default_factory=_ListMeta)),
                    ("items", list[item] | None, None),  # type: ignore[valid-type]
                ],
            )
        )


class Watch(LastingThread, Generic[Item]):
    """Keeps a listener up to date for as long as it runs, whatever the API server does."""

    def __init__(
        self,
        server: ApiServer,
        collection: Collection[Item],
        listener: WatchListener[Item],
        fault: Callable[[str], object],
        remedies: Mapping[str, str] = {},
    ) -> None:
        """`fault` is called while an unexpected exception is handled.

        `remedies` are what can be done, by the reason of an `ApiError`.
        """
        super().__init__(f"watch-{collection.name}", self._serve)
        self._server = server
        self._collection = collection
        self._listener = listener
        self._fault = fault
        self._remedies = remedies
        self._paths = list(collection.paths)
        self._version: str | None = None
        self._stopping = threading.Event()
        self._answer: HttpStream | None = None
        self._failures = 0
        self._once = LogOnce(log)
        self.problem = "has not answered yet"
        """Return why there are no events now; empty while it works."""

    @property
    def starting(self) -> bool:
        """Return whether there was no request yet."""
        return self._version is None and not self._once.failing()

    @property
    def synced(self) -> bool:
        """Return whether all objects are known, and changes will be."""
        return not self.problem

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._version is None:
                    self._read_list()
                self._watch()
            except ApiError as error:
                self._stopping.wait(self._after(error))
            except Exception:
                self._version, self.problem = None, "an error of ours, see the log"
                what = self._collection.name
                self._fault(f"watching {what} failed: changes are unknown until they are relisted")
                self._stopping.wait(RETRY_MOST_S)

    def stop(self, patience_s: float = 2.0) -> None:
        """End the thread; one that hangs in the network is left behind."""
        self._stopping.set()
        answer = self._answer
        if answer is not None:
            answer.stop()
        if self.is_alive():
            self.join(patience_s)

    def _read_list(self) -> None:
        path = self._paths[0]
        query = {**self._collection.query, "resourceVersion": "0"}
        answer = self._server.get(path, query, read_s=LIST_READ_S)
        try:
            found = self._collection.decoders.list.decode(body(path, answer))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ApiError(f"GET {path}: {error}", reason="garbled") from None
        self._listener.listed(found.items or [])
        self._version = found.metadata.resource_version
        self._well()

    def _watch(self) -> None:
        path = self._paths[0]
        query = {
            **self._collection.query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "0",
            "timeoutSeconds": str(WATCH_S + random.randrange(WATCH_S // 5)),  # noqa: S311
        }
        began = time.monotonic()
        answer = self._answer = self._server.get(path, query, read_s=WATCH_READ_S)
        try:
            self._well()
            for line in lines(path, answer):
                self._take(path, line)
                if self._stopping.is_set():
                    return
        finally:
            self._answer = None
        if time.monotonic() - began < 1.0:
            # A watch that ends at once, again and again, must not become a storm.
            self._stopping.wait(self._backoff())

    def _take(self, path: str, line: bytes) -> None:
        try:
            event = _EVENT.decode(line)
            if event.type == "ERROR":
                status = _STATUS.decode(event.object)
                reason = "gone" if status.code == 410 else "busy"
                raise ApiError(f"watch {path}: {status.code} {status.message[:200]}", reason=reason)
            version = _BOOKMARK.decode(event.object).metadata.resource_version
            if event.type != "BOOKMARK":
                item = self._collection.decoders.item.decode(event.object)
                if event.type == "DELETED":
                    self._listener.deleted(item)
                else:
                    self._listener.changed(item)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ApiError(f"watch {path}: {error}", reason="garbled") from None
        self._version = version or self._version
        self._failures = 0

    def _well(self) -> None:
        name = self._collection.name
        self._once.recovered(name, "API server: %s are heard again", name)
        self.problem = ""

    def _after(self, error: ApiError) -> float:
        """Return what follows from an error; for how many seconds to wait."""
        if self._stopping.is_set():
            return 0.0
        if error.reason in {"gone", "garbled", "too_large"}:
            # A server whose own cache is older than its history says so again and again.
            self._version = None
        if error.reason == "gone":
            return self._backoff()
        if error.reason == "absent" and len(self._paths) > 1:
            self._paths.pop(0)  # An older API server.
            self._version = None
            return 0.0
        if error.reason in {"unauthorized", "unreachable", "no_account"}:
            self._server.sign_in_again()
        was_well, self.problem = self.synced, str(error)
        # Connections break, and are made again; where that fails it is worth a word.
        if not (was_well and error.reason == "unreachable"):
            said = ("API server: %s. %s", error, self._remedies.get(error.reason, ""))
            self._once.failed(self._collection.name, *said, reason=error.reason)
        if error.reason == "forbidden":
            return FORBIDDEN_S * (1 + random.random() / 5)  # noqa: S311
        return self._backoff()

    def _backoff(self) -> float:
        self._failures += 1
        return pause_s(self._failures, RETRY_FIRST_S, RETRY_MOST_S)
