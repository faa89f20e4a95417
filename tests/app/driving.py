"""Drives the page of `occvae app` in a browser."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.visualize.report.browser import Browser

T = TypeVar("T")
# What gradio itself writes to the console at the end of each upload.
_KNOWN_WARNING = "[{'type': 'string', 'value': 'Method not implemented.'}]"


class PageBrowser(Browser):
    """A browser whose frames, which may run in processes of their own, can be examined."""

    def __init__(self, *size: int, **options: bool):
        self._frames: list[str] = []
        super().__init__(*size, **options)
        self.call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True
        )

    def open_app(self, url: str) -> None:
        self.open(url)
        self.wait_for("document.querySelector('#run') !== null")

    @contextlib.contextmanager
    def view(self) -> Iterator[None]:
        """Within it, `evaluate` runs in the newest 3D view instead of the page."""
        page = self._session
        for _ in range(50):
            self.evaluate("1")  # reads the messages that announce frames
            if self._frames:
                break
            time.sleep(0.1)
        self._session = self._frames[-1]
        try:
            for domain in ("Runtime", "Log"):  # also sends what the frame has reported before
                self.call(f"{domain}.enable")
            yield
        finally:
            self._session = page

    def in_view(self, action: Callable[[], T]) -> T:
        """Runs an action in the newest 3D view, again if the page replaces the view meanwhile."""
        for attempts in range(20, -1, -1):
            try:
                with self.view():
                    return action()
            except RuntimeError as error:
                if not attempts or "Session with given id not found" not in str(error):
                    raise
            time.sleep(0.2)
        raise AssertionError("unreachable")

    def center(self, selector: str) -> tuple[float, float]:
        """Scrolls an element into view and returns its center."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        box = f"(r => [r.x, r.y, r.width, r.height])({element}.getBoundingClientRect())"
        x, y, width, height = self.evaluate(box)
        return x + width / 2, y + height / 2

    def drop(self, selector: str, *files: Path) -> None:
        """Drops files on an element, as a person does with the mouse."""
        x, y = self.center(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click(self, selector: str) -> None:
        x, y = self.center(selector)
        for kind in ("mousePressed", "mouseReleased"):
            event = dict(type=kind, x=x, y=y, button="left", clickCount=1)
            self.call("Input.dispatchMouseEvent", **event)

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait_for(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".some(e => e.innerText.includes({json.dumps(text)}))"
        )

    def click_text(self, text: str) -> None:
        """Clicks the button with a text."""
        find = f"find(e => e.innerText.includes({json.dumps(text)}))"
        self.evaluate(f"[...document.querySelectorAll('button')].{find}.click()")

    def own_problems(self) -> list[str]:
        """Errors and warnings in the console, except a warning of gradio."""
        return [problem for problem in self.problems if problem != _KNOWN_WARNING]

    def _note(self, message: dict) -> None:
        if message.get("method") == "Target.attachedToTarget":
            target = message["params"]["targetInfo"]
            if target["type"] == "iframe":
                self._frames.append(message["params"]["sessionId"])
        super()._note(message)
