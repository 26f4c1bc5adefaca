"""A headless Chromium that opens pages, for tests of HTML that bertbatch writes.

It speaks the DevTools protocol, https://chromedevtools.github.io/devtools-protocol/, over a pair
of pipes (`--remote-debugging-pipe`): each message is JSON that ends with a NUL. Without a Chromium
tests are skipped, or fail if BERTBATCH_REQUIRE_CHROMIUM=1.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"),
)
PATIENCE = 30  # seconds until an answer
KEYS = {  # a key's name: its virtual key code, and the text that it types
    **{"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")},
    **{"End": (35, ""), "Home": (36, ""), "ArrowLeft": (37, ""), "ArrowUp": (38, "")},
    **{"ArrowRight": (39, ""), "ArrowDown": (40, "")},
}


@contextlib.contextmanager
def browser() -> Iterator["Browser"]:
    """A Chromium of its own, ended afterwards; skips the test if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        why = f"there is no Chromium here: none of {', '.join(NAMES)} is on the PATH"
        if os.environ.get("BERTBATCH_REQUIRE_CHROMIUM") == "1":
            pytest.fail(why)
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        made = Browser(found, profile)
        try:
            yield made
        finally:
            made.close()


class Browser:
    """A running Chromium. `call` sends one command and waits for its answer."""

    def __init__(self, program: str, profile: str):
        commands, self._out = _pipe()
        self._in, answers = _pipe()
        # A shell puts the pipes where Chromium expects them: it reads from 3 and writes to 4.
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._received = b""
        self._sent = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command. Events that arrive meanwhile go to `events`."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            got = self.receive()
            if got.get("id") == self._sent:
                assert "error" not in got, f"{method}: {got['error']}"
                return dict(got["result"])
            self.events.append(got)

    def receive(self) -> dict[str, Any]:
        """The next message."""
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium has not answered for {PATIENCE} s"
            piece = os.read(self._in, 1 << 20)
            assert piece, "Chromium has ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> "Page":
        """A file as a page of this size in a tab of its own, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.use_scheme("dark" if dark else "light")
        page.load(path)
        return page

    def close(self) -> None:
        for end in (self._out, self._in):
            os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Page:
    """A tab."""

    def __init__(self, of: Browser, session: str):
        self._browser = of
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def load(self, path: Path) -> None:
        """Opens a file, and waits until it is loaded."""
        self._browser.events.clear()
        self._url = path.resolve().as_uri()
        self.call("Page.navigate", url=self._url)
        while not self._events("Page.loadEventFired"):
            self._browser.events.append(self._browser.receive())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in JavaScript; of a promise what it resolves to."""
        got = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def errors(self) -> list[str]:
        """What was wrong since the page was opened: exceptions, errors in the console."""
        self.evaluate("0")  # what happened before has arrived then
        thrown = self._events("Runtime.exceptionThrown")
        logged = [e["entry"] for e in self._events("Log.entryAdded")]
        said = self._events("Runtime.consoleAPICalled")
        return [
            *(json.dumps(e["exceptionDetails"]) for e in thrown),
            *(entry["text"] for entry in logged if entry["level"] in ("error", "warning")),
            *(json.dumps(e["args"]) for e in said if e["type"] in ("error", "warning", "assert")),
        ]

    def requests(self) -> list[str]:
        """The URLs that the page asked for, beside its own."""
        self.evaluate("0")
        asked = [e["request"]["url"] for e in self._events("Network.requestWillBeSent")]
        return [url for url in asked if url != self._url]

    def press(self, key: str, shift: bool = False) -> None:
        """A key goes down and up again; see `KEYS`, or a letter."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        given = {
            "key": key,
            "code": key if len(key) > 1 else "",
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        down = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=down, text=text, **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def hover(self, selector: str) -> None:
        """The pointer moves to the middle of the first such element."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """The pointer moves there and its left button goes down and up."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def use_scheme(self, scheme: str) -> None:
        """The reader's colour scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        page = "document.documentElement"
        return int(self.evaluate(f"{page}.scrollWidth - {page}.clientWidth"))

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, or of the part in the window."""
        got = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(got["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def _middle(self, selector: str) -> tuple[float, float]:
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.evaluate(f"JSON.stringify({found}.getBoundingClientRect())")
        at = json.loads(box)
        return at["x"] + at["width"] / 2, at["y"] + at["height"] / 2

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]


def _pipe() -> tuple[int, int]:
    """A pipe's two ends, with numbers that are not those which Chromium expects."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
