"""HTML of the interactive 3D views, which viewer.js draws."""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from occvae.visualize.report.document import json_script
from occvae.visualize.report.mesh_data import pack_mesh
from occvae.visualize.report.metric_names import number

# A change of lightness alone would look like shading, so the hue changes too. The shader in
# viewer.js expects five colors.
PALETTE = ((214, 223, 232), (253, 221, 132), (245, 153, 72), (212, 62, 58), (112, 14, 58))

_TOGGLES = {
    "error": ("error colors", True),
    "wireframe": ("wireframe", False),
    "z-up": ("z is up", False),
}

_STOPS = "".join(
    f'<stop offset="{index / (len(PALETTE) - 1):g}" stop-color="rgb{color}"/>'
    for index, color in enumerate(PALETTE)
)
_SCALE = (
    '<svg width="0" height="0" class="defs" aria-hidden="true"><defs>'
    f'<linearGradient id="scale">{_STOPS}</linearGradient></defs></svg>'
)


@dataclass
class Viewer:
    """Collects the meshes of one page and makes the HTML of their views.

    Args:
        toggles: switches that the page offers, from `error`, `wireframe` and `z-up`.
    """

    toggles: tuple[str, ...] = ("wireframe",)
    _meshes: list[dict[str, Any]] = field(default_factory=list)

    def scene(self, views: list[str], frame: tuple[np.ndarray, float]) -> str:
        """Returns HTML of views that turn together around the center of a frame.

        Args:
            views: HTML from `view`.
            frame: center (3,) and radius, from `frame_of`.
        """
        center, radius = frame
        numbers = " ".join(f"{value:.6g}" for value in (*center, radius))
        return f'<div class="scene" data-frame="{numbers}">{"".join(views)}</div>'

    def view(
        self,
        caption: str,
        description: str,
        mesh: tuple[np.ndarray, np.ndarray] | None,
        intensities: np.ndarray | None = None,
        *,
        kind: str = "prediction",
        below: str = "",
        absent: str = "nothing to show",
    ) -> str:
        """Returns HTML of a view of one mesh, which belongs into a scene.

        Args:
            caption: plain text under the view.
            description: plain text for screen readers.
            mesh: vertices (V, 3) and faces (F, 3).
            intensities: (V,) in [0, 1], see `pack_mesh`.
            kind: `truth` or `prediction`; decides the color.
            below: HTML under the caption. Left out if there is no mesh.
            absent: text shown instead of a mesh without faces.
        """
        packed = None if mesh is None else pack_mesh(*mesh, intensities)
        if packed is None:
            stage, below = f'<p class="absent">{escape(absent)}</p>', ""
        else:
            stage = (
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

    def controls(self) -> str:
        """Returns HTML of the switches for all views, and a line on how to move a view."""
        boxes = "".join(
            f'<label><input type="checkbox" data-toggle="{name}"'
            f"{' checked' if _TOGGLES[name][1] else ''}> {_TOGGLES[name][0]}</label>"
            for name in self.toggles
        )
        return (
            f'<div class="controls">{boxes}<button type="button" data-reset>reset views</button>'
            "<span>Drag to turn. Drag with the right button or two fingers to move. Use the wheel "
            "(after a click) or pinch to zoom. The arrow keys, + and - also work.</span></div>"
            f"<noscript><p>The 3D views need JavaScript.</p></noscript>{_SCALE}"
        )

    def scripts(self) -> str:
        """Returns the script elements that `document` takes as `viewer`."""
        settings = json_script("viewer-settings", {"palette": PALETTE})
        return settings + "".join(
            json_script(f"mesh-{index}", mesh) for index, mesh in enumerate(self._meshes)
        )


def legend(maximum: float, unit: str) -> str:
    """Returns a color scale for values from 0 to `maximum`.

    The page needs `Viewer.controls`, which define the gradient.
    """
    return (
        '<span class="legend">0 <svg viewBox="0 0 100 10" role="img" aria-label="color scale">'
        f'<rect width="100" height="10" fill="url(#scale)"/></svg> ≥ {number(maximum)} '
        f"{escape(unit)}</span>"
    )


def frame_of(*meshes: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, float]:
    """Returns the center (3,) of the bounds of all finite vertices, and their bounding radius."""
    parts = [np.asarray(mesh[0], np.float64).reshape(-1, 3) for mesh in meshes if mesh is not None]
    points = np.concatenate([np.empty((0, 3)), *parts])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.zeros(3), 1.0
    center = (points.min(axis=0) + points.max(axis=0)) / 2
    return center, float(np.linalg.norm(points - center, axis=1).max()) or 1.0
