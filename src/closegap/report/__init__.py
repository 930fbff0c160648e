"""Records to one self-contained HTML file.

Figures are frozen data first and drawings second; the page is a list of sections, each one a file
and one registry line. Nothing here decides anything: it only shows what the store holds.
"""

from __future__ import annotations

from closegap.report.files import write_pictures
from closegap.report.options import ReportOptions
from closegap.report.render import render, render_distances
from closegap.report.write import write

__all__ = ["ReportOptions", "render", "render_distances", "write", "write_pictures"]
