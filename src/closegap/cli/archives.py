"""What `closegap attack` saves: images as a data set again, with what was found beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closegap.cli.options import require_writable

if TYPE_CHECKING:
    from closegap.core.bracket import Bracket

__all__ = ["ended", "npz_file", "witnesses", "write_archive"]


def _kept(done: int, total: int, save: Path | None) -> str:
    """What an interrupted run leaves."""
    if save is None or not done:
        return f"{done} of {total} images were attacked; --save keeps what was found"
    return f"{done} of {total} images were attacked and are in {save}"


@contextmanager
def ended(
    found: Sequence[Any],
    total: int,
    save: Path | None,
    write: Callable[[Path], None],
    show: Callable[[], None],
) -> Iterator[None]:
    """Whatever ends the work within it, what was found is saved, and shown even if it cannot be.

    Raises:
        KeyboardInterrupt: after all that, with a note that says what is kept.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(_kept(len(found), total, save))
        raise
    finally:
        with ExitStack() as last:
            if found:
                last.callback(show)
            if found and save is not None:
                last.callback(write, save)


def npz_file(path: Path | None) -> Path | None:
    """The file to save to, checked before the work begins; numpy wants the suffix.

    Raises:
        click.UsageError: it has another suffix, or cannot be written.
    """
    if path is not None and path.suffix != ".npz":
        raise click.UsageError(f"--save {path}: the name must end in .npz")
    require_writable(path, "--save")
    return path


def witnesses(clean: Any, brackets: Sequence[Bracket]) -> Any:
    """For each bracket its witness where it has one, else the clean image; an array."""
    import numpy as np

    images = np.array(clean[: len(brackets)])
    for row, bracket in enumerate(brackets):
        if bracket.witness is not None:
            images[row] = bracket.witness.input
    return images


def write_archive(path: Path, **columns: Any) -> None:
    """An .npz of these arrays.

    Raises:
        OptionError: it cannot be written.
    """
    import numpy as np

    from closegap.core.errors import OptionError

    try:
        np.savez_compressed(path, **columns)
    except OSError as error:
        raise OptionError(f"--save {path}: cannot be written ({error.strerror})") from None
