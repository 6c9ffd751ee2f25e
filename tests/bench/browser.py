"""A real browser, spoken to by the W3C WebDriver protocol: chromium through chromedriver, both Debian's."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e import harness

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


class Browser:
    """One window."""

    def __init__(self, url: str, session: str) -> None:
        self._base = f"{url}/session/{session}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return ask(f"{self._base}{path}", method, body)

    def open(self, file: Path, *, width: int = 1280, height: int = 900) -> None:
        self.ask("POST", "/window/rect", {"width": width, "height": height})
        self.ask("POST", "/url", {"url": file.absolute().as_uri()})

    def run(self, script: str) -> Any:
        """The value of a JavaScript function's body."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def move_to(self, selector: str) -> None:
        """Move the mouse to the middle of an element."""
        element = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": {_ELEMENT: element[_ELEMENT]}}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self.ask("POST", "/actions", {"actions": [mouse]})

    def click(self, selector: str) -> None:
        element = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        self.ask("POST", f"/element/{element[_ELEMENT]}/click", {})

    def read_log(self) -> list[str]:
        """What the page wrote to its console as warning or worse, and what failed to load."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]


def ask(url: str, method: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


@contextlib.contextmanager
def browse(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in `folder`; nothing of it is left afterwards."""
    port = harness.find_free_port()
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                ask(f"{url}/status", "GET")
                break
            except OSError:
                assert time.monotonic() < until, "chromedriver does not answer"
                time.sleep(0.05)
        options = {"args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = ask(f"{url}/session", "POST", {"capabilities": {"alwaysMatch": wanted}})
        browser = Browser(url, session["sessionId"])
        try:
            yield browser
        finally:
            browser.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(30)
