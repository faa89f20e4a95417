"""The page in a real browser: from an image to a mesh that turns, and to a file."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

pytest.importorskip("gradio")

from occvae.app.server import serve
from occvae.app.service import MeshService
from tests.app.driving import PageBrowser
from tests.app.inputs import photo
from tests.fakes import EllipsoidVae
from tests.visualize.report.browser import needs_browser
from tests.visualize.report.canvas import CanvasImage, frames, settle

pytestmark = [needs_browser, pytest.mark.slow]


class Controlled(MeshService):
    """A service whose reconstructions never end while `endless` is set."""

    endless = False
    ended = threading.Event()

    def reconstruct(self, files, together, settings, report):
        try:
            while self.endless:
                report("counting sheep", 0.25)
                threading.Event().wait(0.01)
        finally:
            self.ended.set()
        return super().reconstruct(files, together, settings, report)


@pytest.fixture(scope="module")
def service():
    return Controlled(EllipsoidVae())


@pytest.fixture(scope="module")
def url(service):
    with serve(service) as url:
        yield url


@pytest.fixture(scope="module")
def opened(url, tmp_path_factory):
    """The browser of all tests, and the folder of its downloads."""
    folder = tmp_path_factory.mktemp("downloads")
    with PageBrowser(1280, 1000) as browser:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        yield browser, folder


@pytest.fixture
def browser(url, opened):
    """The browser with a new page, which must report no problem and send no request elsewhere."""
    browser, _ = opened
    browser.resize(1280, 1000)
    browser.open("about:blank")  # ends the requests of an earlier test
    browser.problems.clear()
    browser.requests.clear()
    browser.open_app(url)
    yield browser
    assert browser.own_problems() == []
    away = [r for r in browser.requests if not r.startswith((url, "data:", "about:", "blob:"))]
    assert away == []


@pytest.fixture
def image(tmp_path) -> Path:
    return photo(tmp_path / "a.jpg", size=200)


def reconstruct(browser: PageBrowser, *files: Path) -> None:
    browser.drop("#files", *files)
    browser.wait_for(f"document.querySelectorAll('#seen img').length === {len(files)}")
    browser.click("#run")
    wait_for_mesh(browser)


def wait_for_mesh(browser: PageBrowser) -> None:
    browser.wait_for("document.querySelector('iframe.view') !== null")
    browser.center("iframe.view")
    browser.in_view(lambda: settle(browser))


def drawn(browser: PageBrowser) -> CanvasImage:
    def read() -> CanvasImage:
        frames(browser)
        return CanvasImage(browser, 0)

    return browser.in_view(read)


def test_a_photograph_becomes_a_mesh_that_turns_and_a_file(browser, opened, tmp_path):
    reconstruct(browser, photo(tmp_path / "my photo.jpg"))
    browser.wait_for_text("#seen", "background removed")
    browser.wait_for_text("#table", "yes")  # watertight
    before = drawn(browser)
    assert before.share > 0.1
    x, y = browser.center("iframe.view")
    browser.drag((x, y), (x + 120, y + 40))
    assert np.abs(drawn(browser).color - before.color).max() > 0.2  # the light turns with the eye
    browser.evaluate("[...document.querySelectorAll('#downloads a')][0].click()")
    saved = wait_for_file(opened[1], "*.glb")
    mesh = trimesh.load(saved, force="mesh")
    assert mesh.is_watertight and f"{len(mesh.faces):,}" in browser.evaluate(
        "document.querySelector('#table').innerText"
    )


def wait_for_file(folder: Path, pattern: str) -> Path:
    for _ in range(600):
        if found := [path for path in folder.glob(pattern) if path.stat().st_size]:
            return found[0]
        threading.Event().wait(0.05)
    raise AssertionError(f"no {pattern} in {sorted(folder.iterdir())}")


def test_what_is_not_an_image_gives_a_sentence(browser, tmp_path):
    (tmp_path / "page.jpg").write_text("<html><script>alert(1)</script></html>")
    browser.drop("#files", tmp_path / "page.jpg")
    browser.wait_for_text("body", "page.jpg: not an image")
    assert "Traceback" not in browser.evaluate("document.body.innerText")
    browser.click("#run")
    browser.wait_for_text("body", "page.jpg: not an image")


def test_work_shows_progress_and_can_be_cancelled(browser, service, image):
    service.endless = True
    try:
        browser.drop("#files", image)
        browser.wait_for("document.querySelectorAll('#seen img').length === 1")
        browser.click("#run")
        browser.wait_for_text("#view", "counting sheep")
        service.ended.clear()
        browser.click("#cancel")
        assert service.ended.wait(10)
        browser.wait_for_text("body", "The request was cancelled.")
        browser.wait_for("!document.querySelector('#view').innerText.includes('counting sheep')")
    finally:
        service.endless = False
    browser.click("#run")
    wait_for_mesh(browser)


def test_work_ends_when_its_page_is_closed(url, service, image):
    service.endless = True
    try:
        with PageBrowser(900, 900) as browser:
            browser.open_app(url)
            browser.drop("#files", image)
            browser.wait_for("document.querySelectorAll('#seen img').length === 1")
            browser.click("#run")
            browser.wait_for_text("#view", "counting sheep")
            service.ended.clear()
        assert service.ended.wait(60)
    finally:
        service.endless = False


def test_sliders_move_the_shape_along_the_axes_of_the_latent(browser, image):
    reconstruct(browser, image)
    sizes = "document.querySelector('#table tbody td:last-child').innerText.split(' × ')"
    before = [float(size) for size in browser.evaluate(sizes)]
    browser.click_text("Move the shape")
    browser.wait_for("document.querySelector('#axis-1 input[type=range]').checkVisibility()")
    browser.center("#axis-1 input[type=range]")
    browser.evaluate("document.querySelector('#axis-1 input[type=range]').focus()")
    for _ in range(5):
        browser.press("ArrowLeft")
    browser.wait_for_text("#table", "a-moved")
    # Five steps of 0.1 standard deviations make the object 2 * 0.5 * 0.08 narrower along x.
    browser.wait_for(f"Math.abs({sizes}[0] - {before[0] - 0.08}) < 0.02")
    assert float(browser.evaluate(sizes)[1]) == pytest.approx(before[1], abs=0.02)


def test_new_shapes_and_interpolations_are_shown_side_by_side(browser, image, tmp_path):
    browser.click_text("New shapes")
    browser.wait_for("document.querySelector('#draw').checkVisibility()")
    browser.click("#draw")
    browser.wait_for("document.querySelectorAll('#table tbody tr').length === 4")
    four = "document.querySelectorAll('canvas').length === 4"
    browser.in_view(lambda: browser.wait_for(four))
    browser.drop("#files", image)
    browser.wait_for("document.querySelectorAll('#seen img').length === 1")
    browser.click_text("Between two images")
    browser.wait_for("document.querySelector('#between').checkVisibility()")
    browser.drop("#second", photo(tmp_path / "b.jpg", size=300))
    browser.wait_for_text("#second", "b.jpg")
    browser.click("#between")
    browser.wait_for("document.querySelectorAll('#table tbody tr').length === 5")


def test_the_keyboard_alone_is_enough(browser, image):
    press_until(browser, "document.activeElement.closest('#files') !== null")
    # The file chooser belongs to the browser. The protocol answers it.
    browser.call("Page.setInterceptFileChooserDialog", enabled=True)
    node = "document.querySelector('#files input[type=file]')"
    found = browser.call("Runtime.evaluate", expression=node)["result"]["objectId"]
    browser.call("DOM.setFileInputFiles", files=[str(image)], objectId=found)
    browser.wait_for("document.querySelectorAll('#seen img').length === 1")
    press_until(browser, "document.activeElement.id === 'run'")
    browser.press("Enter")
    wait_for_mesh(browser)
    press_until(browser, "document.activeElement.matches('iframe.view')")
    with browser.view():
        page, view = "document.activeElement.tagName", browser._session
    for _ in range(12):
        with browser.view():
            if browser.evaluate(page) == "CANVAS":
                break
        browser.press("Tab")
    before = drawn(browser)
    assert view == browser._frames[-1]
    browser.press("+")
    assert drawn(browser).pixels > 1.1 * before.pixels


def press_until(browser: PageBrowser, condition: str) -> None:
    for _ in range(30):
        if browser.evaluate(condition):
            return
        browser.press("Tab")
    raise AssertionError(f"the Tab key never reaches: {condition}")


@pytest.mark.parametrize("width", [320, 1920])
def test_no_width_needs_sideways_scrolling(browser, image, tmp_path, width):
    browser.resize(width, 900, mobile=width < 500)
    long = shutil.copy(image, tmp_path / f"{'x' * 60}.jpg")
    reconstruct(browser, image, long)
    for text in ("Settings", "New shapes", "Move the shape", "Between two images"):
        browser.click_text(text)
    browser.wait_for("document.querySelector('#between').checkVisibility()")
    wide = (
        "[...document.querySelectorAll('#heading, #files, #seen, #run, #view iframe, #table, "
        "#downloads, #axis-1, #between')].filter(e => e.getBoundingClientRect().right > "
        "innerWidth + 1).map(e => e.id)"
    )
    assert browser.evaluate(wide) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.screenshot(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width == width
