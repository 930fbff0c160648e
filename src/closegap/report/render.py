"""Records to a page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from closegap.report.options import ReportOptions
from closegap.report.sections import DISTANCE_SECTIONS, SECTIONS, SectionView
from closegap.report.wording import count, number, plain, radius, seconds, short_path
from closegap.store.distances import DistanceRecord
from closegap.store.records import Record, RunHeader

__all__ = ["render", "render_distances"]


def render(
    header: RunHeader, records: Sequence[Record], options: ReportOptions | None = None
) -> str:
    """One self-contained HTML page; the same records give the same bytes.

    Args:
        header: of the run.
        records: finished queries in the order to show them; fewer than `header.total` make the
            report of an unfinished run.
        options: what to leave out of a long run.

    Returns:
        HTML with its style, script and pictures inside. Its content security policy allows
        nothing to be loaded, and no script but its own.
    """
    limits = options or ReportOptions()
    made = {key: make(header, records, limits) for key, make in SECTIONS.items()}
    return _page(header, made)


def render_distances(
    header: RunHeader, records: Sequence[DistanceRecord], options: ReportOptions | None = None
) -> str:
    """As `render`, for a run of distance queries."""
    limits = options or ReportOptions()
    made = {key: make(header, records, limits) for key, make in DISTANCE_SECTIONS.items()}
    return _page(header, made)


def _page(header: RunHeader, made: Mapping[str, SectionView | None]) -> str:
    views = {key: view for key, view in made.items() if view is not None}
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            header=header,
            views=views,
            subject=_subject(header),
            radius=radius(header),
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
        )
    )


def _subject(header: RunHeader) -> str:
    model, data = short_path(header.model), short_path(header.data)
    return " on ".join(part for part in (model, data) if part)


def _policy(style: str, script: str) -> str:
    """Nothing from outside; inside, only this style, this script and pictures in the page."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _asset(name: str) -> str:
    return (files("closegap.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("closegap.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters.update(count=count, number=number, seconds=seconds)
    return environment


def _shown(value: object) -> object:
    """Last step before escaping: no character that a page cannot hold gets through."""
    if isinstance(value, Markup):
        return Markup(plain(value))
    return plain(value) if isinstance(value, str) else value
