"""Pages to look at: the report of an evaluation, runs, meshes; each one file that needs no network.

The 3D viewer (viewer.js) is our own. A library such as three.js would put 700 KB of another licence
into every report for what takes a few hundred lines: one WebGL 2 context that draws every view of
the page in turn, as browsers grant about 16 contexts and a report has more views.
"""

from occvae.visualize.report.cases import Case
from occvae.visualize.report.page import write_report

__all__ = ["Case", "write_report"]
