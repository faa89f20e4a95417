"""HTML pages of evaluations, runs and meshes. Each page is one file and needs no network.

The 3D viewer (viewer.js) uses three.js, which is part of this package and of each page with a view
(vendor/README.md). It draws all views of a page with one WebGL 2 context, because browsers allow
about 16 contexts and a report has more views.
"""

from occvae.visualize.report.cases import Case
from occvae.visualize.report.page import write_report

__all__ = ["Case", "write_report"]
