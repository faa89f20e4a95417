"""The report in a real browser: it draws, reacts to mouse and keys, and sends no request."""

import math
from pathlib import Path

import numpy as np
import pytest

from occvae.visualize.report import write_report
from tests.visualize.report.browser import Browser, needs_browser
from tests.visualize.report.builders import HOSTILE, case, evaluation, sphere
from tests.visualize.report.canvas import CanvasImage, frames, settle

pytestmark = needs_browser
NUM_CASES = 14  # 28 views, more than a page can have WebGL contexts
# Runs before the script of the page and keeps its contexts, for the test that loses one.
WATCH = """
  window.contexts = [];
  const getContext = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    const context = getContext.call(this, kind, ...rest);
    if (kind.startsWith("webgl")) window.contexts.push(context);
    return context;
  };"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of boxes, predicted as spheres with or without errors. One prediction is empty."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    vertices, faces = sphere()
    kinds = [
        ((vertices, faces), None),
        ((vertices, faces), np.where(vertices[:, 0] > 0, 0.1, 0.0)),
        (None, None),
    ]
    names = [HOSTILE, *(f"shape {i}" for i in range(1, NUM_CASES + 1))]
    ious = {name: 1.0 - i / 20 for i, name in enumerate(names)}
    cases = [case(name, ious[name], *kinds[min(i, 1)]) for i, name in enumerate(names[:-1])]
    cases.append(case(names[-1], ious[names[-1]], *kinds[2]))
    write_report(path, evaluation(ious), cases)
    return path


@pytest.fixture(scope="module")
def browser(report):
    with Browser(800, 600) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        browser.open(report.as_uri())
        yield browser


def center(browser: Browser, index: int) -> tuple[float, float]:
    place = f"document.querySelectorAll('canvas')[{index}].getBoundingClientRect()"
    return tuple(browser.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place})"))


@pytest.fixture
def first(browser) -> Browser:
    """The browser with the first case visible and all cameras reset."""
    settle(browser, 0)
    browser.evaluate("document.querySelector('[data-reset]').click()")
    settle(browser, 1)
    return browser


def test_the_browser_draws_more_views_than_it_has_contexts(browser):
    count = browser.evaluate("document.querySelectorAll('canvas').length")
    assert count == 2 * NUM_CASES + 1  # the last prediction is absent
    for index in range(count):
        settle(browser, index)
        assert CanvasImage(browser, index).share > 0.02, index


def test_meshes_are_decoded_exactly(browser):
    """Positions, normals and intensities of every corner, in the order of the faces."""
    source = "JSON.parse(document.getElementById('mesh-3').textContent)"
    decoded = browser.evaluate(
        f"decodeMesh({source}).then(mesh => [...new Uint8Array(mesh.vertices)])"
    )
    corners = np.array(decoded, np.uint8).reshape(-1, 16)
    vertices, faces = sphere()
    positions = corners[:, :12].copy().view(np.float32)
    np.testing.assert_allclose(positions, vertices[faces.ravel()], atol=0.8 / 65535)
    normals = corners[:, 12:15].copy().view(np.int8) / 127
    assert (np.sum(normals * positions, axis=1) > 0.98 * 0.4).all()
    expected = 255 * (vertices[faces.ravel(), 0] > 0)
    np.testing.assert_array_equal(corners[:, 15], expected)


def test_a_sphere_has_the_size_of_its_projection(first):
    image = CanvasImage(first, 1)
    # The sphere around the frame touches the edges of the view, and the box's corners lie on it.
    frame, half_view = np.linalg.norm([0.5, 0.15, 0.1]), math.radians(15)
    distance = frame / math.sin(half_view)
    tangent = math.tan(math.asin(0.4 / distance)) / math.tan(half_view)
    expected = math.pi * (tangent * image.height / 2) ** 2
    assert image.pixels == pytest.approx(expected, rel=0.05)  # the sphere has facets
    assert image.middle == pytest.approx((0.5, 0.5), abs=0.01)


def test_error_colors_can_be_switched_off(first):
    settle(first, 3)
    plain, colored = CanvasImage(first, 1).color, CanvasImage(first, 3).color
    assert plain[2] > plain[0] + 20  # blue
    assert colored[0] > colored[2] + 10  # half of it dark red
    first.evaluate("document.querySelector('[data-toggle=error]').click()")
    frames(first)
    assert np.abs(CanvasImage(first, 3).color - plain).max() < 3
    first.evaluate("document.querySelector('[data-toggle=error]').click()")


def test_the_wireframe_darkens_edges(first):
    before = CanvasImage(first, 1)
    first.evaluate("document.querySelector('[data-toggle=wireframe]').click()")
    frames(first)
    after = CanvasImage(first, 1)
    first.evaluate("document.querySelector('[data-toggle=wireframe]').click()")
    assert after.pixels == before.pixels and (after.color < before.color - 3).all()


def test_only_the_two_views_of_a_case_turn_together(first):
    settle(first, 2)
    settle(first, 1)
    before = [CanvasImage(first, index) for index in range(3)]
    x, y = center(first, 1)
    first.drag((x, y), (x - 60, y))
    frames(first)
    after = [CanvasImage(first, index) for index in range(3)]
    assert abs(after[0].pixels - before[0].pixels) > 0.05 * before[0].pixels  # the truth
    assert (
        np.abs(after[1].color - before[1].color).max() < 8
    )  # a sphere looks the same from all sides
    assert after[2].pixels == before[2].pixels


def test_keys_turn_zoom_move_and_reset(first):
    start = CanvasImage(first, 1)
    first.evaluate("document.querySelectorAll('canvas')[1].focus()")
    first.press("+")
    frames(first)
    assert CanvasImage(first, 1).pixels == pytest.approx(1.15**2 * start.pixels, rel=0.03)
    first.press("-")
    first.press("ArrowRight", shift=True)
    frames(first)
    x, y = CanvasImage(first, 1).middle
    assert x > 0.52 and y == pytest.approx(0.5, abs=0.01)
    truth = CanvasImage(first, 0).pixels
    first.press("ArrowLeft")
    first.press("ArrowUp")
    frames(first)
    assert CanvasImage(first, 0).pixels != truth
    first.press("0")
    frames(first)
    assert CanvasImage(first, 1).middle == pytest.approx(start.middle, abs=1e-6)
    assert CanvasImage(first, 0).pixels == pytest.approx(truth, rel=0.2)


def test_the_right_button_moves_the_mesh(first):
    x, y = center(first, 1)
    first.drag((x, y), (x, y + 40), button="right")
    frames(first)
    image = CanvasImage(first, 1)
    assert image.middle[1] > 0.55 and image.middle[0] == pytest.approx(0.5, abs=0.01)


def test_a_resized_window_is_drawn_again(first):
    before = CanvasImage(first, 1)
    first.resize(700, 600)
    frames(first)
    settle(first, 1)
    after = CanvasImage(first, 1)
    first.resize(800, 600)
    assert after.height < before.height
    assert after.share == pytest.approx(before.share, rel=0.02)


def test_the_page_shows_its_title_and_tables(browser):
    assert browser.evaluate("document.title") == "Evaluation of runs/one"
    cells = "[...document.querySelectorAll('#tables table')[0].rows].map(r => r.innerText)"
    rows = browser.evaluate(cells)
    assert rows[1].split("\t")[-1].strip() == "0.1250"
    assert "0.2500 [0.2031, 0.3027]" in rows[1]


def test_a_phone_needs_no_sideways_scrolling(browser):
    browser.resize(360, 740, scale=2, mobile=True)
    frames(browser)
    width = browser.evaluate("document.documentElement.scrollWidth")
    browser.resize(800, 600)
    assert width <= 360


def test_dark_mode_follows_the_system(browser):
    background = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(browser.evaluate(background)) > 200
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        assert (max(browser.evaluate(background)) < 60) == (scheme == "dark")


def test_the_page_sends_no_request_and_reports_no_problem(browser, report):
    """Runs after the tests that use everything else on the page."""
    others = [url for url in browser.requests if not url.startswith("data:image/png;base64,")]
    assert others == [report.as_uri()]
    assert browser.problems == []
    # The policy stops requests even from the page itself.
    for attempt in (
        "fetch('http://evil.invalid/')",
        "new Promise((done, fail) => { const i = new Image(); i.onload = done; i.onerror = fail;"
        " i.src = 'http://evil.invalid/x.png'; })",
    ):
        with pytest.raises(RuntimeError):
            browser.evaluate(attempt)
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_a_lost_context_is_restored(first):
    before = CanvasImage(first, 1)
    assert first.evaluate("contexts.length") == 1
    first.evaluate("(window.loss = contexts[0].getExtension('WEBGL_lose_context')).loseContext()")
    first.wait_for("contexts[0].isContextLost()")
    first.evaluate("document.querySelector('[data-reset]').click()")
    frames(first)
    assert CanvasImage(first, 1).pixels == 0
    first.evaluate("loss.restoreContext()")
    first.wait_for("!contexts[0].isContextLost()")
    settle(first, 1)
    np.testing.assert_allclose(CanvasImage(first, 1).color, before.color, atol=1)
