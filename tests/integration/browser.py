"""A headless Chromium controlled through its DevTools pipe, without a library.

Messages are JSON, each followed by NUL; the browser reads them from file descriptor 3 and writes
them to 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
    "--enable-features=IsolateSandboxedIframes",  # each is a target of its own
    "--window-size=1600,1000",
)
SECONDS = 60.0  # how long anything may take
END_SECONDS = 10.0


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class RefusedError(Exception):
    """What the browser says to a command that it cannot follow, or not now."""


class Browser:
    """A running browser; `close` ends it with all its processes."""

    def __init__(self, program: str, profile: Path) -> None:
        profile.mkdir()
        self._output = profile / "output"
        (reads, self._to), (self._from, writes) = os.pipe(), os.pipe()
        theirs = [reads, writes]
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in theirs]  # neither 3 nor 4
        try:
            self._pid = os.posix_spawn(
                program,
                [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, self._output, os.O_WRONLY | os.O_CREAT, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, high[0], 3),
                    (os.POSIX_SPAWN_DUP2, high[1], 4),
                ],
                setpgroup=0,
            )
        finally:
            for end in (*theirs, *high):
                os.close(end)
        self._heard, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """The answer to one command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": given}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._hear(deadline - time.monotonic())
            assert answer is not None, f"no answer to {method}"
            if answer.get("id") == self._number:
                break
            self._events.append(answer)
        if "error" in answer:
            raise RefusedError(f"{method}: {answer['error']}")
        return answer["result"]

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None where there is none in time."""
        while b"\0" not in self._heard:
            if not select.select([self._from], [], [], max(0.0, seconds))[0]:
                return None
            text = os.read(self._from, 2**20)
            assert text, f"the browser has ended: {self._output.read_text()}"
            self._heard += text
        message, self._heard = self._heard.split(b"\0", 1)
        return json.loads(message)

    def events(self, session: str, *methods: str) -> list[dict[str, Any]]:
        """What has happened in a session so far."""
        while (event := self._hear(0)) is not None:
            self._events.append(event)
        return [
            event["params"]
            for event in self._events
            if event.get("sessionId") == session and event["method"] in methods
        ]

    def open(self, url: str, *, offline: bool = False) -> Page:
        """A new tab."""
        page = Page(self, self.call("Target.createTarget", url="about:blank")["targetId"])
        if offline:
            page.call(
                "Network.emulateNetworkConditions",
                offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
            )  # fmt: skip
        page.call("Page.navigate", url=url)
        return page

    def frame(self, url_start: str) -> Page:
        """The sandboxed frame of that address, once it is there."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for target in self.call("Target.getTargets")["targetInfos"]:
                if target["type"] == "iframe" and target["url"].startswith(url_start):
                    return Page(self, target["targetId"])
            time.sleep(0.05)
        raise AssertionError(f"no frame {url_start}")

    def close(self) -> None:
        """Ask it to end, then kill what is left of its group."""
        try:
            with suppress(OSError, AssertionError):
                self.call("Browser.close")
            deadline = time.monotonic() + END_SECONDS
            while not (ended := os.waitpid(self._pid, os.WNOHANG)[0]):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            for end in (self._to, self._from):
                os.close(end)
        if not ended:
            os.waitpid(self._pid, 0)


class Page:
    """A tab, or a frame in one."""

    def __init__(self, browser: Browser, target: str) -> None:
        self._browser, self._target = browser, target
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **given)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; None where it raises."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value") if "exceptionDetails" not in found else None

    def wait_for(self, expression: str) -> Any:
        """The first value that is true."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with suppress(RefusedError):  # between two documents
                if value := self.evaluate(expression):
                    return value
            time.sleep(0.05)
        raise AssertionError(
            f"never true: {expression}\n{self.evaluate('location.href')}\n{self.text()}"
        )

    def wait_for_text(self, *texts: str) -> None:
        """Until all of them are to be read."""
        self.wait_for(f"{json.dumps(texts)}.every(text => document.body.innerText.includes(text))")

    def click(self, x: float, y: float) -> None:
        """With the left button, at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def text(self) -> str:
        """What is to be read on it."""
        return self.evaluate("document.body.innerText") or ""

    def requests(self) -> list[str]:
        """Addresses that it has asked for, but for those that hold what they stand for."""
        sent = self._browser.events(self._session, "Network.requestWillBeSent")
        urls = [event["request"]["url"] for event in sent]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def errors(self) -> list[Any]:
        """What its console shows in red."""
        events = self._browser.events
        said = events(self._session, "Runtime.consoleAPICalled")
        logged = [event["entry"] for event in events(self._session, "Log.entryAdded")]
        return [
            *events(self._session, "Runtime.exceptionThrown"),
            *(event for event in said if event["type"] in ("error", "assert")),
            *(entry for entry in logged if entry["level"] == "error"),
        ]

    def screenshot(self, file: Path) -> None:
        """All of it, as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
