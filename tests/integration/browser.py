"""A real Chromium, driven by the WebDriver protocol (W3C), as a person would use it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's id, which the protocol fixes."""


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        _ask("POST", f"{self._session}/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is."""
        return str(_ask("GET", f"{self._session}/url"))

    def resize(self, width: int, height: int) -> None:
        """Make the window as wide as a phone, for one."""
        _ask("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def click(self, css: str) -> None:
        """Press the first element that a selector finds."""
        _ask("POST", f"{self._session}/element/{self._find(css)}/click", {})

    def text(self, css: str = "body") -> str:
        """The text that a person sees."""
        return str(_ask("GET", f"{self._session}/element/{self._find(css)}/text"))

    def shows(self, text: str, css: str = "body", timeout_s: float = 60) -> str:
        """Wait until a text is seen, as a person does after a click; return all of the element."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen = ""
            with contextlib.suppress(AssertionError):  # The page is being replaced.
                seen = self.text(css)
            if text in seen:
                return seen
            assert time.monotonic() < deadline, f"{text!r} is not in {seen[:2000]!r}"
            time.sleep(0.1)

    def run(self, script: str) -> Any:
        """What a script returns."""
        return _ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def picture(self, path: Path) -> None:
        """Write what is seen."""
        path.write_bytes(base64.b64decode(_ask("GET", f"{self._session}/screenshot")))

    def whole(self, width: int, most: int = 20_000) -> None:
        """Make the window as high as the page, for a picture of it; up to 499 it is a phone."""
        metrics = {"width": width, "height": 200, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        height = self.run("return document.documentElement.scrollHeight")
        metrics["height"] = min(height, most)
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        sent = {"cmd": command, "params": parameters}
        _ask("POST", f"{self._session}/goog/cdp/execute", sent)

    def allow(self, permission: str) -> None:
        """Grant what a person would be asked for."""
        given = {"descriptor": {"name": permission}, "state": "granted"}
        _ask("POST", f"{self._session}/permissions", given)

    def _find(self, css: str) -> str:
        found = _ask("POST", f"{self._session}/element", {"using": "css selector", "value": css})
        return str(found[_ELEMENT])


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 1000, *, dark: bool = False) -> Iterator[Browser]:
    """A window of a Chromium of its own, whose user may prefer dark colours."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(
            m[1] for line in driver.stdout if (m := re.search(r"successfully on port (\d+)", line))
        )
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--window-size={width},{height}",
            "--hide-scrollbars",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        ]
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": words}}}}
        base = f"http://127.0.0.1:{port}/session"
        session = f"{base}/{_ask('POST', base, asked)['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait(30)
        if driver.stdout is not None:
            driver.stdout.close()


def _ask(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode()[:1000]) from None
