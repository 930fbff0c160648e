"""From a run store to a report on disk."""

from __future__ import annotations

from pathlib import Path

from closegap.core.errors import OptionError
from closegap.report.options import ReportOptions
from closegap.report.render import render, render_distances
from closegap.store import RunStore

__all__ = ["write"]


def write(
    store_path: str | Path, out_path: str | Path, options: ReportOptions | None = None
) -> Path:
    """Render the run in `store_path` to `out_path`, replacing the file as a whole.

    Returns:
        where the report is.

    Raises:
        StoreError: the store cannot be read.
        OptionError: the report cannot be written there.
    """
    with RunStore.open(store_path) as store:
        header = store.header()
        if header.kind == "distances":
            page = render_distances(header, tuple(store.distances()), options)
        else:
            page = render(header, tuple(store.records()), options)
    place = Path(out_path)
    draft = place.with_name(f".{place.name}.part")
    try:
        draft.write_text(page, encoding="utf-8", newline="\n")
        draft.replace(place)
    except OSError as error:
        draft.unlink(missing_ok=True)
        why = error.strerror or str(error)
        raise OptionError(f"report {place}: it cannot be written: {why}; try another -o") from None
    return place
