"""The report in a real browser: it draws, reacts to mouse, keys and fingers, sends no request."""

import math
from pathlib import Path

import numpy as np
import pytest

from occvae.visualize.report import write_report
from occvae.visualize.report.viewer import scale_colors
from tests.visualize.report.browser import Browser, needs_browser
from tests.visualize.report.builders import HOSTILE, case, evaluation, sphere
from tests.visualize.report.canvas import DRAWN, PICTURE, CanvasImage, frames, settle

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
    cases = [
        case(name, ious[name], *kinds[min(i, 1)], category="ball" if i == 3 else "box")
        for i, name in enumerate(names[:-1])
    ]
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
    """The browser with the first case visible and all cameras reset. View 0 is a prediction."""
    settle(browser, 0)
    browser.evaluate("document.querySelector('[data-reset]').click()")
    settle(browser, 0)
    return browser


def test_the_browser_draws_more_views_than_it_has_contexts(browser):
    count = browser.evaluate("document.querySelectorAll('canvas').length")
    assert count == 2 * NUM_CASES + 1  # the last prediction is absent
    for index in range(count):
        settle(browser, index)
        assert CanvasImage(browser, index).share > 0.02, index


def test_meshes_are_decoded_exactly(browser):
    """Positions, normals and colors of every corner, in the order of the faces."""
    source = "JSON.parse(document.getElementById('mesh-2').textContent)"
    arrays = "[mesh.positions, mesh.normals, mesh.colors].map(values => [...values])"
    decoded = browser.evaluate(f"decodeMesh({source}).then(mesh => {arrays})")
    positions, normals, colors = (np.reshape(values, (-1, 3)) for values in decoded)
    vertices, faces = sphere()
    np.testing.assert_allclose(positions, vertices[faces.ravel()], atol=0.8 / 65535)
    assert (np.sum(normals / 127 * positions, axis=1) > 0.98 * 0.4).all()
    expected = scale_colors(vertices[faces.ravel(), 0] > 0)
    np.testing.assert_array_equal(colors, expected)


def test_a_sphere_has_the_size_of_its_projection(first):
    image = CanvasImage(first, 0)
    # The sphere around the frame touches the edges of the view, and the box's corners lie on it.
    frame, half_view = np.linalg.norm([0.5, 0.15, 0.1]), math.radians(15)
    distance = frame / math.sin(half_view)
    tangent = math.tan(math.asin(0.4 / distance)) / math.tan(half_view)
    expected = math.pi * (tangent * image.height / 2) ** 2
    assert image.pixels == pytest.approx(expected, rel=0.05)  # the sphere has facets
    assert image.middle == pytest.approx((0.5, 0.5), abs=0.01)


def test_the_picture_shows_what_is_drawn_first(first):
    """Before a mesh is drawn, and where it cannot be."""
    first.evaluate("document.querySelectorAll('canvas')[0].focus()")
    for index in (0, 1, 2):  # a prediction, a truth, and a prediction with errors
        settle(first, index)
        drawn = CanvasImage(first, index)
        width, height, count, x, y, *color = first.evaluate(f"({PICTURE})({index})")
        # The view is wider than high. The picture is a square of its height.
        assert count / width / height == pytest.approx(1.25 * drawn.share, rel=0.02)
        assert (x / count / width - 0.5) / 1.25 + 0.5 == pytest.approx(drawn.middle[0], abs=0.01)
        assert y / count / height == pytest.approx(drawn.middle[1], abs=0.01)
        np.testing.assert_allclose(np.array(color) / count, drawn.color, atol=6)


def test_colors_can_be_switched_off(first):
    settle(first, 2)
    plain, colored = CanvasImage(first, 0).color, CanvasImage(first, 2).color
    assert plain[2] > plain[0] + 20  # blue
    assert colored[0] > colored[2] + 10  # half of it dark red
    first.evaluate("document.querySelector('[data-toggle=colors]').click()")
    frames(first)
    assert np.abs(CanvasImage(first, 2).color - plain).max() < 3
    first.evaluate("document.querySelector('[data-toggle=colors]').click()")


def test_the_wireframe_darkens_edges(first):
    before = CanvasImage(first, 0)
    first.evaluate("document.querySelector('[data-toggle=wireframe]').click()")
    frames(first)
    after = CanvasImage(first, 0)
    first.evaluate("document.querySelector('[data-toggle=wireframe]').click()")
    assert after.pixels == pytest.approx(before.pixels, rel=0.03)
    assert (after.color < before.color - 3).all()


def test_only_the_two_views_of_a_case_turn_together(first):
    settle(first, 3)
    settle(first, 0)
    before = [CanvasImage(first, index) for index in (1, 3)]
    x, y = center(first, 0)
    first.drag((x, y), (x - 60, y))
    frames(first)
    truth, other = (CanvasImage(first, index) for index in (1, 3))
    assert abs(truth.pixels - before[0].pixels) > 0.05 * before[0].pixels
    assert other.pixels == before[1].pixels
    # Turned back at its other view, the case looks as before.
    x, y = center(first, 1)
    first.drag((x, y), (x + 60, y))
    frames(first)
    assert CanvasImage(first, 1).pixels == pytest.approx(before[0].pixels, rel=0.005)


def test_keys_turn_zoom_move_and_reset(first):
    start = CanvasImage(first, 0)
    first.evaluate("document.querySelectorAll('canvas')[0].focus()")
    first.press("+")
    frames(first)
    assert CanvasImage(first, 0).pixels == pytest.approx(1.15**2 * start.pixels, rel=0.03)
    first.press("-")
    first.press("ArrowRight", shift=True)
    frames(first)
    x, y = CanvasImage(first, 0).middle
    assert x > 0.52 and y == pytest.approx(0.5, abs=0.01)
    truth = CanvasImage(first, 1).pixels
    first.press("ArrowLeft")
    first.press("ArrowUp")
    frames(first)
    assert CanvasImage(first, 1).pixels != truth
    first.press("0")
    frames(first)
    assert CanvasImage(first, 0).middle == pytest.approx(start.middle, abs=1e-6)
    assert CanvasImage(first, 1).pixels == pytest.approx(truth, rel=0.2)


def test_the_keyboard_alone_reaches_switches_and_views(first):
    first.evaluate("document.querySelector('select[data-filter]').focus()")
    first.press("Tab")
    assert first.evaluate("document.activeElement.dataset.toggle") == "colors"
    first.press("Tab")
    before = CanvasImage(first, 0).color
    first.press(" ")
    frames(first)
    assert (CanvasImage(first, 0).color < before - 3).all()  # the wireframe
    first.press(" ")
    for _ in range(20):
        first.press("Tab")
        if first.evaluate("document.activeElement === document.querySelector('canvas')"):
            break
    first.wait_for("document.activeElement === document.querySelector('canvas')")
    settle(first, 0)
    truth = CanvasImage(first, 1).pixels
    first.press("ArrowLeft")
    frames(first)
    assert CanvasImage(first, 1).pixels != truth


def test_the_right_button_moves_the_mesh(first):
    x, y = center(first, 0)
    first.drag((x, y), (x, y + 40), button="right")
    frames(first)
    image = CanvasImage(first, 0)
    assert image.middle[1] > 0.55 and image.middle[0] == pytest.approx(0.5, abs=0.01)


def test_the_wheel_zooms_only_a_view_with_focus(first):
    x, y = center(first, 0)
    wheel = dict(type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    before = CanvasImage(first, 0).pixels
    first.evaluate("document.activeElement.blur()")
    first.call("Input.dispatchMouseEvent", **wheel | dict(deltaY=-1))
    frames(first)
    assert CanvasImage(first, 0).pixels == before
    first.evaluate("document.querySelectorAll('canvas')[0].focus({preventScroll: true})")
    x, y = center(first, 0)
    first.call("Input.dispatchMouseEvent", **wheel | dict(x=x, y=y))
    first.wait_for(f"({DRAWN})(0)[2] > {1.05 * before}")


def test_fingers_turn_and_zoom(first):
    first.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    try:
        settle(first, 0)
        start, truth = CanvasImage(first, 0).pixels, CanvasImage(first, 1).pixels
        x, y = center(first, 1)
        first.touch([(x, y)], [(x - 30, y)], [(x - 60, y)])
        frames(first)
        assert abs(CanvasImage(first, 1).pixels - truth) > 0.05 * truth
        x, y = center(first, 0)
        spread = [[(x - d, y), (x + d, y)] for d in (20, 25, 30)]
        first.touch(*spread)
        frames(first)
        assert CanvasImage(first, 0).pixels > 1.3 * start
    finally:
        first.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_a_resized_window_is_drawn_again(first):
    before = CanvasImage(first, 0)
    first.resize(700, 600)
    frames(first)
    settle(first, 0)
    after = CanvasImage(first, 0)
    first.resize(800, 600)
    assert after.height < before.height
    assert after.share == pytest.approx(before.share, rel=0.02)


def test_cases_can_be_filtered_by_category(first):
    def choose(value: str) -> tuple[list[str], list[str]]:
        first.evaluate(
            "(select => { select.value = '" + value + "'; "
            "select.dispatchEvent(new Event('change')); })(document.querySelector('select'))"
        )
        shown = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility())"
        names = (
            f"{shown.format(what)}.map(e => e.innerText)" for what in ("#cases h3", ".case h4")
        )
        return tuple(first.evaluate(script) for script in names)

    groups, names = choose("ball")
    assert (groups, names) == (["Best"], ["shape 3"])
    groups, names = choose("")
    assert groups == ["Best", "Median", "Worst"] and len(names) == NUM_CASES + 1


def test_the_page_shows_its_title_and_tables(browser):
    assert browser.evaluate("document.title") == "Evaluation of runs/one"
    cells = "[...document.querySelectorAll('#tables table')[0].rows].map(r => r.innerText)"
    rows = browser.evaluate(cells)
    assert rows[1].split("\t")[1].strip() == "0.2500 [0.2031, 0.3027]"
    assert rows[3].split("\t")[1].strip() == "0.1250"


@pytest.mark.parametrize("width", [320, 1920])
def test_no_width_needs_sideways_scrolling(browser, width):
    browser.resize(width, 740, scale=2 if width < 500 else 1, mobile=width < 500)
    frames(browser)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    scroll = browser.evaluate("document.documentElement.scrollWidth")
    # Wide tables scroll on their own. Nothing else is cut off.
    cut = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    browser.resize(800, 600)
    assert scroll <= width and cut == []


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
    before = CanvasImage(first, 0)
    assert first.evaluate("contexts.length") == 1
    first.evaluate("(window.loss = contexts[0].getExtension('WEBGL_lose_context')).loseContext()")
    first.wait_for("contexts[0].isContextLost()")
    first.evaluate("document.querySelector('[data-reset]').click()")
    frames(first)
    first.evaluate("loss.restoreContext()")
    first.wait_for("!contexts[0].isContextLost()")
    first.evaluate("document.querySelector('[data-toggle=colors]').click()")
    first.evaluate("document.querySelectorAll('canvas')[0].width = 1")  # an empty view
    first.resize(801, 600)
    settle(first, 0)
    np.testing.assert_allclose(CanvasImage(first, 0).color, before.color, atol=1)


def test_the_first_table_fits_on_a_phone(tmp_path):
    mean = {"mean": 0.5432, "interval": [0.4321, 0.6543]}
    metric = {"per_category": {"airplane": mean, "scissors": mean}, "macro": mean, "micro": mean}
    names = ("iou_points", "chamfer_l1_edge", "f_score_1_percent", "normal_consistency")
    write_report(tmp_path / "page.html", {"metrics": dict.fromkeys(names, metric)}, [])
    with Browser(320, 700) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        widths = "(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.scroll'))"
        needed, given = browser.evaluate(widths)
        assert needed <= given < 320


def test_without_webgl_the_page_shows_pictures(report):
    hide = """const getContext = HTMLCanvasElement.prototype.getContext;
      HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        return kind.startsWith("webgl") ? null : getContext.call(this, kind, ...rest);
      };"""
    with Browser(800, 600) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=hide)
        browser.open(report.as_uri())
        notice = browser.evaluate("document.querySelector('.notice').innerText")
        assert notice == "This browser has no WebGL 2, so the meshes are shown as pictures."
        assert browser.evaluate("document.querySelectorAll('canvas').length") == 0
        shown = "[...document.querySelectorAll('.picture')].map(e => e.checkVisibility())"
        assert browser.evaluate(shown) == [True] * (2 * NUM_CASES + 1)
        switches = "[...document.querySelectorAll('.controls input, .controls button')]"
        assert not browser.evaluate(f"{switches}.some(e => e.checkVisibility())")
        assert browser.problems == []
