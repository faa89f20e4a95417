"""HTML of the interactive 3D views, which viewer.js draws with three.js."""

import io
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_cutout
from occvae.visualize.report.document import image_element, json_script
from occvae.visualize.report.mesh_data import pack_mesh, usable_faces
from occvae.visualize.report.metric_names import number

# A change of lightness alone would look like shading, so the hue changes too.
_PALETTE = ((214, 223, 232), (253, 221, 132), (245, 153, 72), (212, 62, 58), (112, 14, 58))
_SHADES = 64  # colors of the scale: more would not be seen, and would make pages larger
_ALBEDO = {"truth": (0.72, 0.70, 0.66), "prediction": PREDICTION_ALBEDO}
# The first view of viewer.js. The sphere around the mesh touches the edges of the image.
_AZIMUTH, _ELEVATION, _HALF_FIELD = 35.0, 25.0, np.radians(15.0)
_PICTURE_EDGE, _PICTURE_COLORS = 256, 64

_TOGGLES = {
    "colors": ("colors", True),
    "wireframe": ("wireframe", False),
    "z-up": ("z is up", False),
    "linked": ("turn together", True),
}

_STOPS = "".join(
    f'<stop offset="{index / (len(_PALETTE) - 1):g}" stop-color="rgb{color}"/>'
    for index, color in enumerate(_PALETTE)
)
_SCALE = (
    '<svg width="0" height="0" class="defs" aria-hidden="true"><defs>'
    f'<linearGradient id="scale">{_STOPS}</linearGradient></defs></svg>'
)

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) and faces (F, 3)."""
Frame = tuple[np.ndarray, float]
"""Center (3,) and radius of a sphere."""


@dataclass
class Viewer:
    """Collects the meshes of one page and makes the HTML of their views."""

    _meshes: list[dict[str, Any]] = field(default_factory=list)

    def scene(self, views: list[str], frame: Frame) -> str:
        """Returns HTML of views that turn together around the center of a frame.

        Args:
            views: HTML from `view`.
            frame: from `frame_of`.
        """
        center, radius = frame
        numbers = " ".join(f"{value:.6g}" for value in (*center, radius))
        return f'<div class="scene" data-frame="{numbers}">{"".join(views)}</div>'

    def view(
        self,
        caption: str,
        description: str,
        mesh: Mesh | None,
        frame: Frame,
        colors: np.ndarray | None = None,
        *,
        kind: str = "prediction",
        below: str = "",
        absent: str = "nothing to show",
    ) -> str:
        """Returns HTML of a view of one mesh, which belongs into a scene.

        It contains a picture, which is visible until the mesh is drawn and where it cannot be.

        Args:
            caption: plain text under the view.
            description: plain text for screen readers.
            mesh: the mesh.
            frame: that of the scene.
            colors: (V, 3) uint8.
            kind: `truth` or `prediction`; decides the color of a mesh without `colors`.
            below: HTML under the caption. Left out if there is no mesh.
            absent: text shown instead of a mesh without faces.
        """
        packed = None if mesh is None else pack_mesh(*mesh, colors)
        if mesh is None or packed is None:
            stage, below = f'<p class="absent">{escape(absent)}</p>', ""
        else:
            stage = _picture(mesh, frame, colors, kind, description) + (
                f'<canvas tabindex="0" role="application" data-kind="{kind}" '
                f'data-mesh="mesh-{len(self._meshes)}" aria-label="{escape(description)}, 3D view: '
                'arrow keys turn, shift and arrow keys move, + and - zoom, 0 resets"></canvas>'
            )
            self._meshes.append(packed)
        caption = escape(caption)
        return (
            f'<figure class="view"><div class="stage">{stage}</div>'
            f"<figcaption>{caption}{below}</figcaption></figure>"
        )

    def controls(self, *toggles: str, filter: str = "") -> str:
        """Returns HTML of the switches for all views, and a line on how to move a view.

        Args:
            toggles: switches that the page offers, from `colors`, `wireframe`, `z-up` and `linked`.
            filter: HTML of more controls, which come first.
        """
        boxes = "".join(
            f'<label data-needs-3d><input type="checkbox" data-toggle="{name}"'
            f"{' checked' if _TOGGLES[name][1] else ''}> {_TOGGLES[name][0]}</label>"
            for name in toggles
        )
        return (
            f'<div class="controls">{filter}{boxes}'
            '<button type="button" data-reset data-needs-3d>reset views</button>'
            "<details data-needs-3d><summary>how to move</summary><p>Drag to turn. Drag with the "
            "right button or two fingers to move. Use the wheel (after a click) or pinch to zoom. "
            "With the keyboard: arrow keys turn, shift and arrow keys move, + and - zoom, 0 resets."
            '</p></details></div><p class="notice" role="status" hidden></p>'
            "<noscript><p>Without JavaScript the meshes are shown as pictures.</p></noscript>"
            f"{_SCALE}"
        )

    def scripts(self) -> str:
        """Returns the script elements that `document` takes as `viewer`."""
        settings = json_script("viewer-settings", {"albedo": _ALBEDO})
        return settings + "".join(
            json_script(f"mesh-{index}", mesh) for index, mesh in enumerate(self._meshes)
        )


def scale_colors(intensities: np.ndarray) -> np.ndarray:
    """Returns the colors (V, 3) uint8 of values in [0, 1]. Others and NaN get the nearest end."""
    values = np.nan_to_num(np.asarray(intensities, np.float64), nan=1.0).clip(0.0, 1.0)
    values = np.rint(values * (_SHADES - 1)) / (_SHADES - 1)
    places = np.linspace(0.0, 1.0, len(_PALETTE))
    channels = [np.interp(values, places, channel) for channel in zip(*_PALETTE, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def legend(maximum: float, unit: str) -> str:
    """Returns a color scale for values from 0 to `maximum`.

    The page needs `Viewer.controls`, which define the gradient.
    """
    return (
        '<span class="legend">0 <svg viewBox="0 0 100 10" role="img" aria-label="color scale">'
        f'<rect width="100" height="10" fill="url(#scale)"/></svg> ≥ {number(maximum)} '
        f"{escape(unit)}</span>"
    )


def frame_of(*meshes: Mesh | None) -> Frame:
    """Returns the center (3,) of the bounds of all finite vertices, and their bounding radius."""
    parts = [np.asarray(mesh[0], np.float64).reshape(-1, 3) for mesh in meshes if mesh is not None]
    points = np.concatenate([np.empty((0, 3)), *parts])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.zeros(3), 1.0
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    return center, float(np.linalg.norm(points - center, axis=1).max()) or 1.0


def _picture(
    mesh: Mesh, frame: Frame, colors: np.ndarray | None, kind: str, description: str
) -> str:
    """Returns an image of a mesh as the view shows it first."""
    (vertices, faces), (center, radius) = mesh, frame
    vertices = np.asarray(vertices, np.float64)
    faces = usable_faces(vertices, np.asarray(faces))
    albedo = np.asarray(_ALBEDO[kind])
    if colors is not None:
        albedo = np.asarray(colors)[faces].mean(axis=1) / 255.0
    [camera] = orbit_extrinsics([_AZIMUTH], [_ELEVATION], [1.0 / np.sin(_HALF_FIELD)])
    pixels = render_cutout(
        (vertices - center) / radius,
        faces,
        camera,
        _PICTURE_EDGE,
        albedo,
        0.5 / np.tan(_HALF_FIELD),
    )
    file = io.BytesIO()
    image = Image.fromarray(pixels).quantize(_PICTURE_COLORS, Image.Quantize.FASTOCTREE)
    image.save(file, "PNG", optimize=True)
    return image_element(file.getvalue(), f"picture of {description}", image.size, kind="picture")
