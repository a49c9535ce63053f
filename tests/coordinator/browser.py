"""Headless Chromium, driven over its remote debugging pipe.

Chromium reads commands from descriptor 3 and writes answers to 4, each a JSON text that ends with a
zero byte (chromedevtools.github.io/devtools-protocol; `--remote-debugging-pipe`).
"""

import base64
import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

PATIENCE_S = 60.0


@dataclass
class Browser:
    """One page of one browser."""

    process: subprocess.Popen[bytes]
    write_to: int
    read_from: int
    session: str = ""
    number: int = 0
    received: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self.number += 1
        command: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        data = msgspec.json.encode(command) + b"\0"
        while data:
            data = data[os.write(self.write_to, data) :]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self._next(deadline, method)
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.read_from], [], [], deadline - time.monotonic())
            assert ready, f"the browser did not answer {method}"
            part = os.read(self.read_from, 1 << 20)
            assert part, f"the browser died at {method}"
            self.received += part
        text, _, self.received = self.received.partition(b"\0")
        message: dict[str, Any] = msgspec.json.decode(text)
        return message

    def look(
        self, address: str, width: int = 1280, height: int = 900, scheme: str = "light"
    ) -> None:
        """Open a page in a window of that size and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true on the page."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"{expression} never came true: {self.problems()}"
            time.sleep(0.05)

    def problems(self) -> list[str]:
        """What the page's console and the content security policy complained about."""
        self.call("Runtime.evaluate", expression="0")
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def photograph(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))


@contextlib.contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, without network but what it is told to open."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # The child finds its two ends at 3 and 4 whatever their numbers are here.
    script = f'exec 3<&{commands_out} 4>&{answers_in} && exec "$0" "$@"'
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--no-default-browser-check",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    process = subprocess.Popen(
        ["/bin/bash", "-c", script, program, *arguments],
        pass_fds=(commands_out, answers_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        browser = Browser(process, commands_in, answers_out)
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        browser.session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        yield browser
    finally:
        os.close(commands_in)  # which ends the browser and all its processes
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()
        os.close(answers_out)
