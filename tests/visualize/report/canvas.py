"""Measures what the canvases of a page show."""

import numpy as np

from tests.visualize.report.browser import Browser

_MEASURE = """(index) => {
  const canvas = ELEMENT;
  const width = canvas.naturalWidth ?? canvas.width, height = canvas.naturalHeight ?? canvas.height;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, width, height).data;
  let [count, x, y, r, g, b] = [0, 0, 0, 0, 0, 0];
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3] < 128) continue;
    count++; x += i / 4 % width; y += Math.floor(i / 4 / width);
    r += pixels[i]; g += pixels[i + 1]; b += pixels[i + 2];
  }
  return [width, height, count, x, y, r, g, b];
}"""
# For the canvas with an index: width, height, the number of drawn pixels, and the sums of their
# x, y, r, g and b. And the same for the picture that the page shows before it is drawn.
DRAWN = _MEASURE.replace("ELEMENT", 'document.querySelectorAll("canvas")[index]')
PICTURE = _MEASURE.replace("ELEMENT", 'document.querySelectorAll(".picture")[index]')


class CanvasImage:
    """The drawn part of a canvas.

    Attributes:
        share: share of the canvas that is drawn.
        pixels: number of drawn pixels.
        height: height of the canvas in pixels.
        middle: center of the drawn pixels, x and y in [0, 1].
        color: mean color of the drawn pixels, RGB in [0, 255].
    """

    def __init__(self, browser: Browser, index: int):
        width, height, count, x, y, *color = browser.evaluate(f"({DRAWN})({index})")
        self.share = count / (width * height)
        self.pixels, self.height = count, height
        self.middle = (x / max(count, 1) / width, y / max(count, 1) / height)
        self.color = np.array(color) / max(count, 1)


def settle(browser: Browser, index: int = 0) -> None:
    """Scrolls to a canvas and waits until it has been drawn."""
    browser.evaluate(
        f"document.querySelectorAll('canvas')[{index}].scrollIntoView({{block: 'center'}})"
    )
    browser.wait_for(f"({DRAWN})({index})[2] > 0")
    frames(browser)


def frames(browser: Browser) -> None:
    browser.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
