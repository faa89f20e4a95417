"""HTML pages of evaluations, runs and meshes. Each page is one file and needs no network.

The 3D viewer (viewer.js) is part of this package. A library such as three.js would add 700 KB under
another license to every report, while the viewer needs only a few hundred lines. It draws all views
of a page with one WebGL 2 context, because browsers allow about 16 contexts and a report has more
views.
"""

from occvae.visualize.report.cases import Case
from occvae.visualize.report.page import write_report

__all__ = ["Case", "write_report"]
