"""A headless Chromium for tests, controlled through a pipe with the DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the sandbox needs privileges that containers do not grant
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)
_TIMEOUT = 60.0
_KEY_CODES = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    " ": (32, " "),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
}


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


# Skips a test without a browser. With OCCVAE_REQUIRE_BROWSER=1 the test fails instead.
needs_browser = pytest.mark.skipif(
    find_browser() is None and os.environ.get("OCCVAE_REQUIRE_BROWSER") != "1",
    reason="no browser; run 'apt-get install chromium'",
)


class Browser:
    """One tab of a headless browser.

    Attributes:
        requests: URLs that the page has requested so far.
        problems: errors and warnings that the page has reported so far.
    """

    def __init__(self, width: int = 1200, height: int = 900, *, dark: bool = False):
        executable = find_browser()
        assert executable, "OCCVAE_REQUIRE_BROWSER=1, but there is no browser"
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._sent, self._buffer = 0, b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads the protocol from descriptor 3 and writes it to descriptor 4.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        profile = f"--user-data-dir={self._profile.name}"
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", executable, *_FLAGS, profile, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        [page] = [target["targetId"] for target in targets if target["type"] == "page"][:1]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def call(self, method: str, **parameters) -> dict:
        """Sends one command and returns its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _TIMEOUT
        while (answer := self._receive(end)).get("id") != self._sent:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> None:
        """Loads a page and waits for its load event."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def evaluate(self, expression: str):
        """Returns the JSON value of a JavaScript expression and awaits promises."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        end = time.monotonic() + _TIMEOUT
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; problems: {self.problems}")
            time.sleep(0.05)

    def resize(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=height, deviceScaleFactor=scale, mobile=mobile),
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float], button="left") -> None:
        """Presses the mouse at one point of the window, moves it and releases it at another."""
        bits = {"left": 1, "right": 2}[button]
        for kind, (x, y) in (
            ("mousePressed", start),
            ("mouseMoved", ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            event = dict(type=kind, x=x, y=y, button=button, buttons=bits, clickCount=1)
            self.call("Input.dispatchMouseEvent", **event)

    def press(self, key: str, *, shift: bool = False) -> None:
        event = dict(key=key, modifiers=8 * shift)
        if key in _KEY_CODES:  # keys that the browser itself reacts to
            code, text = _KEY_CODES[key]
            event |= (
                dict(windowsVirtualKeyCode=code, text=text)
                if text
                else dict(windowsVirtualKeyCode=code)
            )
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **event)

    def touch(self, *steps: list[tuple[float, float]]) -> None:
        """Puts fingers on the window at the points of the first step and moves them to others."""
        for number, points in enumerate(steps):
            touches = [dict(x=x, y=y, id=finger) for finger, (x, y) in enumerate(points)]
            kind = "touchMove" if number else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        image = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))

    def _receive(self, end: float) -> dict:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise OSError("the browser has ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message: dict) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.problems.append(str(parameters["args"]))
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {parameters['message']}")
