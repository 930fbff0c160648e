"""PNG files of nearest counterexamples: clean image, witness and change, and all side by side.

The witness's file holds the picture on the 8-bit grid that still loses its label, where there is
one: what is read back from the file is a counterexample itself. Otherwise it holds the nearest
8-bit values, and says so in its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from closegap.core.errors import OptionError
from closegap.report.pictures import brightness, change, layout, shade
from closegap.report.png import encode
from closegap.report.sheet import Pixels, sheet
from closegap.store.distances import DistanceRecord

__all__ = ["write_pictures"]


def write_pictures(folder: Path, records: Sequence[DistanceRecord]) -> tuple[Path, ...]:
    """Write the pictures of one image's distances; files of these names are replaced.

    Names hold index, label, distance, the class found and how far it is:
    `00007_5_clean.png`, `00007_5_l1_to_3_at_2.51_witness.png`, `..._change.png`, and
    `00007_5_sheet.png`: a row for each distance with clean image, witness and change, enlarged,
    under its name, its bracket and how much shows.

    Args:
        folder: where; it exists.
        records: of one image; those without a witness are words on the sheet alone.

    Returns:
        the files written; none where no witness was found or the input is no picture.

    Raises:
        OptionError: a file cannot be written.
    """
    written = []
    for name, pixels in _files(records):
        place = folder / name
        try:
            place.write_bytes(encode(pixels))
        except OSError as error:
            raise OptionError(f"--png {place}: cannot be written ({error.strerror})") from None
        written.append(place)
    return tuple(written)


def _files(records: Sequence[DistanceRecord]) -> Iterator[tuple[str, Pixels]]:
    rows: list[tuple[Pixels, ...]] = []
    for record in records:
        triple = _triple(record)
        first = not any(rows)
        rows.append(triple)
        if not triple:
            continue
        start = f"{record.index:05d}_{record.label}"
        if first:
            yield f"{start}_clean.png", triple[0]
        kept = "witness" if record.rounded is not None else "witness_not_rounded"
        yield f"{start}_{_found(record)}_{kept}.png", triple[1]
        yield f"{start}_{_found(record)}_change.png", triple[2]
    if any(rows):
        yield f"{records[0].index:05d}_{records[0].label}_sheet.png", sheet(records, rows)


def _found(record: DistanceRecord) -> str:
    """Distance, class and how far, of characters that every file system takes."""
    reached = "" if record.target is None else f"_to_{record.target}"
    return re.sub("[^a-z0-9._-]", "-", f"{record.distance}{reached}_at_{record.upper:.4g}")


def _triple(record: DistanceRecord) -> tuple[Pixels, ...]:
    """Clean image, witness and change, 8 bit; `()` where there is nothing to draw."""
    if record.pictures is None:
        return ()
    turned = record.channels_last
    clean, witness = (
        layout(a, channels_last=turned) for a in (record.pictures.clean, record.pictures.witness)
    )
    if clean is None or witness is None:
        return ()
    low, high = brightness(clean, witness)
    shown = None if record.rounded is None else layout(record.rounded, channels_last=turned)
    return (
        shade(clean, low, high),
        shade(witness, low, high) if shown is None else np.ascontiguousarray(shown),
        change(clean, witness, _scale(clean, witness)),
    )


def _scale(clean: Float[np.ndarray, "..."], witness: Float[np.ndarray, "..."]) -> float:
    """Full colour: the largest change, so that the spread of small ones is seen too."""
    moved = np.abs(witness.astype(np.float64) - clean.astype(np.float64))
    largest = float(np.nan_to_num(moved).max(initial=0.0))
    return largest if largest > 0 and math.isfinite(largest) else 1.0
