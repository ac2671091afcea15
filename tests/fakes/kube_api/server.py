"""An API server in small: lists and streaming watches over TLS, of pods, ResourceSlices and the
EndpointSlices of a namespace.

It honours selectors, resource versions, bookmarks and bearer tokens as the real one does (answers
with 400, 401, 403, 404, 410), and can misbehave. In a test:

    with FakeApi(folder) as api:
        api.put_pod("team-a", "train-x", uid=..., node="n1", labels={...})
        daemon(env=api.environment(), service_account=api.service_account)

As a process, with the objects of JSON files (each a list of pods and ResourceSlices):

    python -m tests.fakes.kube_api.server FOLDER --objects pods.json

FOLDER then holds `token` and `ca.crt`; it says `ready HOST PORT` on standard output and ends with
SIGTERM. A file of objects that is replaced (by rename) is read again within a second: objects that
are new or changed are reported as such, those left out as deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import secrets
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

Object = dict[str, Any]

PODS = "/api/v1/pods"
SLICES = "resourceslices"
ENDPOINTS = "endpointslices"
_ENDPOINTS = re.compile(r"/apis/discovery.k8s.io/v1/namespaces/[^/]+/endpointslices")
SELECTABLE = {
    "pods": {"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"},
    SLICES: {"metadata.name", "spec.nodeName", "spec.driver"},
    ENDPOINTS: {"metadata.name"},
}


class FakeApi:
    """The server and its objects, which may be changed at any time."""

    def __init__(
        self, folder: Path, *, port: int = 0, bookmark_s: float = 1.0, dra: str = "v1"
    ) -> None:
        """`dra` is the version of resource.k8s.io that it serves; empty: none."""
        folder.mkdir(parents=True, exist_ok=True)
        self.service_account = folder
        self.bookmark_s = bookmark_s
        self.dra = dra
        self.calls: Counter[str] = Counter()
        self.forbidden: set[str] = set()
        self.reviews: dict[str, Object] = {}
        """Status of a TokenReview by token; for one that is not here `authenticated: false`."""
        self.listers: set[tuple[str, str]] = set()
        """Who may list the pods of a namespace; of the namespace `""`: of all."""
        self.asked: list[Object] = []
        self.port = port
        self.changed = threading.Condition()
        self._objects: dict[tuple[str, str], Object] = {}
        self._log: list[tuple[int, str, str, Object]] = []
        self._version = 100
        self._compacted = 0
        self._tokens: set[str] = set()
        self._epoch = 0
        self._server: ThreadingHTTPServer | None = None
        authority = trustme.CA()
        self._certificate = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        self.rotate_token()

    def environment(self) -> dict[str, str]:
        """What a pod's environment says of the server."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
        }

    # -- objects

    def put_pod(
        self,
        namespace: str,
        name: str,
        *,
        uid: str,
        node: str,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        owner: tuple[str, str] | None = None,
        phase: str = "Running",
        image: str = "example.org/train:1",
        restart: str = "Never",
        containers: Sequence[str] = (),
    ) -> None:
        """A pod as it is now; `owner` is its controller's kind and name."""
        meta: Object = {"name": name, "namespace": namespace, "uid": uid}
        meta["creationTimestamp"] = "2026-11-24T12:00:00Z"
        if labels:
            meta["labels"] = dict(labels)
        if annotations:
            meta["annotations"] = dict(annotations)
        if owner:
            meta["ownerReferences"] = [
                {"apiVersion": "batch/v1", "kind": owner[0], "name": owner[1], "uid": "o",
                 "controller": True, "blockOwnerDeletion": True}
            ]  # fmt: skip
        variables: list[Object] = [{"name": n, "value": v} for n, v in (env or {}).items()]
        variables.append(
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "token"}}}
        )
        self.put(
            "pods",
            {
                "metadata": meta,
                "spec": {
                    "nodeName": node,
                    "restartPolicy": restart,
                    "containers": [{"name": "main", "image": image, "env": variables}],
                    "tolerations": [{"operator": "Exists"}],
                },
                "status": {
                    "phase": phase,
                    "containerStatuses": [
                        {"name": "main", "ready": True, "restartCount": 0,
                         "containerID": f"containerd://{each}"}
                        for each in containers
                    ],
                },
            },
        )  # fmt: skip

    def put_slice(
        self, node: str, driver: str, devices: Mapping[str, Mapping[str, str]], generation: int = 1
    ) -> None:
        """A ResourceSlice of a node's own pool: attributes (text) by device."""
        listed = []
        for name, attributes in devices.items():
            said = {key: {"string": value} for key, value in attributes.items()}
            listed.append(
                {"name": name, "basic": {"attributes": said}}
                if self.dra == "v1beta1"
                else {"name": name, "attributes": said}
            )
        self.put(
            SLICES,
            {
                "metadata": {"name": f"{node}-{driver}", "uid": f"{node}-{driver}"},
                "spec": {
                    "nodeName": node,
                    "driver": driver,
                    "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
                    "devices": listed,
                },
            },
        )

    def put(self, resource: str, item: Object) -> None:
        """An object as it is now."""
        with self.changed:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            key = (resource, item["metadata"]["uid"])
            kind = "MODIFIED" if key in self._objects else "ADDED"
            self._objects[key] = item
            self._log.append((self._version, resource, kind, item))
            self.changed.notify_all()

    def delete(self, resource: str, uid: str) -> None:
        """It is no more."""
        with self.changed:
            item = self._objects.pop((resource, uid), None)
            if item is None:
                return
            self._version += 1
            gone = json.loads(json.dumps(item))
            gone["metadata"]["resourceVersion"] = str(self._version)
            self._log.append((self._version, resource, "DELETED", gone))
            self.changed.notify_all()

    def uids(self, resource: str) -> set[str]:
        """Of all objects that there are."""
        return {uid for kind, uid in self._objects if kind == resource}

    # -- how it misbehaves

    def rotate_token(self, *, keep_old: bool = False) -> None:
        """A new token in the file; the old one is not accepted any more."""
        token = secrets.token_hex(16)
        self._tokens = {token, *(self._tokens if keep_old else ())}
        new = self.service_account / "token.new"
        new.write_text(token)
        new.rename(self.service_account / "token")

    def compact(self) -> None:
        """Forget what was: a watch from before now gets 410."""
        with self.changed:
            self._version += 1
            self._compacted = self._version
            self._log.clear()

    def drop(self) -> None:
        """Break all watches, as a load balancer does."""
        with self.changed:
            self._epoch += 1
            self.changed.notify_all()

    # -- the server

    def start(self) -> FakeApi:
        """Listen; after a stop on the same port as before."""
        api = self

        class Handler(_Handler):
            fake = api

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Be gone, and break all connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.drop()

    def __enter__(self) -> FakeApi:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what handlers ask

    def accepts(self, header: str | None) -> bool:
        kind, _, token = (header or "").partition(" ")
        return kind.lower() == "bearer" and token.strip() in self._tokens

    def listed(self, resource: str, wanted: Mapping[str, str]) -> tuple[list[Object], str]:
        with self.changed:
            items = [o for (kind, _), o in self._objects.items() if kind == resource]
            return [o for o in items if _matches(o, wanted)], str(self._version)

    def since(
        self, resource: str, version: int, wanted: Mapping[str, str], *, first: bool
    ) -> tuple[list[tuple[str, Object]], int]:
        """Events after a version, and the newest version.

        `LookupError` if they are forgotten; a watch that goes on is past them.
        """
        if first and version < self._compacted:
            raise LookupError
        news = [
            (kind, item)
            for at, name, kind, item in self._log
            if at > version and name == resource and _matches(item, wanted)
        ]
        return news, self._version

    @property
    def epoch(self) -> int:
        return self._epoch


def _parts(selector: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in selector.split(",") if part)


def _matches(item: Object, wanted: Mapping[str, str]) -> bool:
    for path, value in wanted.items():
        found: Any = item
        first, _, label = path.partition(".labels.")
        for name in [*first.split("."), "labels", label] if label else path.split("."):
            found = found.get(name, "") if isinstance(found, dict) else ""
        if found != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    fake: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(60)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # A client that went away.
            super().handle()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        resource = self._resource(url.path)
        verb = "watch" if query.get("watch") in {"1", "true"} else "list"
        self.fake.calls[f"{verb} {resource or url.path}"] += 1
        if not self.fake.accepts(self.headers.get("Authorization")):
            return self._status(401, "Unauthorized", "Unauthorized")
        if resource is None:
            return self._status(404, "NotFound", "the server could not find the resource")
        if resource in self.fake.forbidden:
            return self._status(403, "Forbidden", f"{resource} is forbidden: cannot {verb}")
        wanted = _parts(query.get("fieldSelector", ""))
        if not wanted.keys() <= SELECTABLE[resource]:
            return self._status(400, "BadRequest", "field label not supported")
        for key, value in _parts(query.get("labelSelector", "")).items():
            wanted[f"metadata.labels.{key}"] = value
        if verb == "watch":
            return self._watch(resource, wanted, query)
        items, version = self.fake.listed(resource, wanted)
        return self._json(
            200, {"kind": "List", "metadata": {"resourceVersion": version}, "items": items}
        )

    def do_POST(self) -> None:
        resource = urlsplit(self.path).path.rpartition("/")[2]
        item = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.calls[f"create {resource}"] += 1
        self.fake.asked.append(item)
        if not self.fake.accepts(self.headers.get("Authorization")):
            return self._status(401, "Unauthorized", "Unauthorized")
        if resource in self.fake.forbidden:
            return self._status(403, "Forbidden", f"{resource} is forbidden: cannot create")
        spec = item["spec"]
        if item["kind"] == "TokenReview":
            status = self.fake.reviews.get(spec["token"], {"user": {}, "error": "invalid token"})
        elif item["kind"] == "SubjectAccessReview":
            wanted = spec["resourceAttributes"]
            listers = {(spec["user"], ""), (spec["user"], wanted.get("namespace", ""))}
            is_pods = (wanted["verb"], wanted["resource"]) == ("list", "pods")
            status = {"allowed": is_pods and bool(listers & self.fake.listers)}
        else:
            return self._status(404, "NotFound", "the server could not find the resource")
        return self._json(201, {**item, "status": status})

    def _resource(self, path: str) -> str | None:
        if path == PODS:
            return "pods"
        if _ENDPOINTS.fullmatch(path):
            return ENDPOINTS
        served = f"/apis/resource.k8s.io/{self.fake.dra}/{SLICES}"
        return SLICES if self.fake.dra and path == served else None

    def _watch(self, resource: str, wanted: Mapping[str, str], query: Mapping[str, str]) -> None:
        fake = self.fake
        version = int(query.get("resourceVersion", "0"))
        until = time.monotonic() + float(query.get("timeoutSeconds", "1800"))
        bookmarks = query.get("allowWatchBookmarks") in {"1", "true"}
        epoch = fake.epoch
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        bookmark_at = time.monotonic() + fake.bookmark_s
        first = True
        while time.monotonic() < until:
            with fake.changed:
                try:
                    news, newest = fake.since(resource, version, wanted, first=first)
                except LookupError:
                    self._event("ERROR", _failure(410, "Expired", "too old resource version"))
                    break
                if not news and epoch == fake.epoch:
                    fake.changed.wait(0.05)
            if epoch != fake.epoch:
                self.close_connection = True
                self.connection.close()
                return
            for kind, item in news:
                self._event(kind, item)
            version, first = newest, False
            if bookmarks and time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + fake.bookmark_s
                self._event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, item: Object) -> None:
        line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _status(self, code: int, reason: str, message: str) -> None:
        self._json(code, _failure(code, reason, message))

    def _json(self, code: int, body: Object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _failure(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason,
            "message": message}  # fmt: skip


def _follow(api: FakeApi, files: Sequence[Path], over: threading.Event) -> None:
    seen: dict[tuple[str, str], Object] = {}
    while True:
        now: dict[tuple[str, str], Object] = {}
        for file in files:
            for item in json.loads(file.read_text()):
                resource = SLICES if item.get("kind") == "ResourceSlice" else "pods"
                now[resource, item["metadata"].setdefault("uid", item["metadata"]["name"])] = item
        for (resource, uid), item in now.items():
            if seen.get((resource, uid)) != item:
                api.put(resource, json.loads(json.dumps(item)))
        for resource, uid in seen.keys() - now.keys():
            api.delete(resource, uid)
        seen = now
        if over.wait(0.5):
            return


def main() -> None:
    """Serve the objects of files until SIGTERM."""
    parser = argparse.ArgumentParser(description="An API server in small.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--objects", type=Path, action="append", default=[])
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with FakeApi(args.folder, port=args.port) as api:
        print("ready 127.0.0.1", api.port, flush=True)
        _follow(api, args.objects, over)


if __name__ == "__main__":
    main()
