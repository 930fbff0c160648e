"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from closegap.core.errors import OptionError

if TYPE_CHECKING:
    from closegap.core.tolerance import Tolerance
    from closegap.evaluate import WorkOptions
    from closegap.store import SnapshotFolder

__all__ = [
    "command_line",
    "data_options",
    "folder",
    "given",
    "layout_option",
    "names",
    "norm",
    "norm_or_pixels",
    "number",
    "require_writable",
    "run_options",
    "size",
    "tolerance",
    "work_options",
]

F = TypeVar("F", bound=Callable[..., Any])


def given(value: object) -> bool:
    """Whether an option was given; 0 is a value like any other."""
    return value is not None and value is not False


def number(value: object) -> float:
    """A finite number that is not negative; fractions such as 8/255 too.

    Raises:
        click.BadParameter: it is none.
    """
    text = str(value)
    try:
        parsed = float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.BadParameter(f"'{text}' is not a number such as 0.5 or 8/255") from None
    if not math.isfinite(parsed) or parsed < 0:
        raise click.BadParameter(f"{text} must be finite and not negative")
    return parsed


def norm(value: object) -> float:
    """1, 2 or infinity.

    Raises:
        click.BadParameter: it is none of these.
    """
    from closegap.specs.region import named_norm  # --help needs none of it

    known = named_norm(str(value))
    if not known:
        raise click.BadParameter(f"'{value}' is not a norm; use inf, 2 or 1")
    return known


def norm_or_pixels(value: object) -> float:
    """0 (the number of changed pixels), 1, 2 or infinity.

    Raises:
        click.BadParameter: it is none of these.
    """
    from closegap.specs.region import named_norm  # --help needs none of it

    known = named_norm(str(value))
    if known is None:
        raise click.BadParameter(f"'{value}' is not a norm; use inf, 2, 1 or 0")
    return known


def names(value: object) -> tuple[str, ...]:
    """A list with commas between; whether the names are known is seen where they are used.

    Raises:
        click.BadParameter: a name is empty.
    """
    parts = tuple(part.strip() for part in str(value).split(","))
    if not all(parts):
        raise click.BadParameter(f"'{value}' is not a list of names with commas between")
    return parts


def tolerance(value: object) -> Tolerance:
    """How narrow a closed bracket is: a number, or a share of the distance such as 0.1%.

    Raises:
        click.BadParameter: it is neither, or not positive and finite.
    """
    from closegap.core.tolerance import Tolerance  # numpy: --help needs none of it

    try:
        return Tolerance.parse(str(value))
    except OptionError as error:
        raise click.BadParameter(str(error)) from None


def size(value: object) -> int:
    """Bytes: a whole number, or one with K, M or G behind it (powers of 1024).

    Raises:
        click.BadParameter: it is none.
    """
    text = str(value).strip().upper().removesuffix("B").removesuffix("I")
    scale = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:], 1)
    digits = text if scale == 1 else text[:-1]
    if not digits.isdecimal() or not int(digits):
        raise click.BadParameter(f"'{value}' is not a size such as 512M or 2G")
    return int(digits) * scale


_FILE = click.Path(path_type=Path)


def data_options(function: F) -> F:
    """`--data`, `--download`, `--limit` and `--indices`."""
    return _decorated(
        function,
        click.option(
            "--data", required=True, metavar="DATA",
            help="digits, mnist, fashion-mnist, cifar10, or an .npz with images and labels.",
        ),
        click.option("--download", is_flag=True, help="Fetch the data set through torchvision."),
        click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images."),
        click.option(
            "--indices", type=_FILE, help="A text file of image indices, one a line.",
        ),
    )  # fmt: skip


def layout_option(function: F) -> F:
    """`--layout`."""
    return _decorated(
        function,
        click.option(
            "--layout", type=click.Choice(["chw", "hwc"]),
            help="Of flat colour inputs: one channel after the other, or one pixel after the "
            "other; what the network tells, else chw, if it is left out.",
        ),
    )  # fmt: skip


def run_options(function: F) -> F:
    """What every run over many queries understands."""
    return _decorated(
        function,
        click.option(
            "--engines", type=names, help="Which engines, in this order, with commas between.",
        ),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE",
            help="An engine's setting, such as bab.branching=fsb; may be repeated.",
        ),
        click.option("--optimum", is_flag=True,
                     help="Do not stop at the verdict: bracket the least margin itself."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                     help="Of every random choice."),
        click.option("--nodes", type=click.IntRange(min=0),
                     help="Subproblems a tree search may bound; makes its tree reproducible."),
        click.option("--memory", type=size, metavar="SIZE",
                     help="Working memory of a query, such as 512M or 2G (the default)."),
        click.option("--store", type=_FILE, help="Keep the run in this file, or continue it."),
        click.option("--snapshot", type=number, default=30.0, show_default=True,
                     help="Seconds between snapshots of a long search, beside the store."),
        click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True,
                     help="How many processes share the work."),
        click.option("--report", type=_FILE, help="Write an HTML report at the end."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout."),
    )  # fmt: skip


def _settings(texts: tuple[str, ...]) -> dict[str, str]:
    """Checked here, before anything starts; what that needs is heavy, so only if there are any."""
    if not texts:
        return {}
    from closegap.strategy.settings import parse_settings

    return parse_settings(texts)


def work_options(engines: tuple[str, ...], threads: int, options: dict[str, Any]) -> WorkOptions:
    """How every query is answered, from the values of `run_options`."""
    from closegap.core.budget import DEFAULT_MEMORY_BYTES
    from closegap.evaluate import WorkOptions  # --help needs none of it

    memory, store = options["memory"], options["store"]
    return WorkOptions(
        engines,
        options["seed"],
        threads,
        settings=_settings(options.get("settings") or ()),
        nodes=options["nodes"],
        memory=DEFAULT_MEMORY_BYTES if memory is None else memory,
        optimum=options["optimum"],
        trees=None if store is None else _snapshots(store, options["snapshot"]),
    )


def _snapshots(store: Path, seconds: float) -> SnapshotFolder:
    from closegap.store import SnapshotFolder  # numpy: only where a run is kept

    return SnapshotFolder.beside(store, seconds)


def _decorated(function: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def require_writable(path: Path | None, option: str) -> None:
    """Refuse an output file that could not be written, before the work begins.

    Raises:
        click.UsageError: it is a folder, its folder does not exist, or neither may be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise click.UsageError(f"{option} {path}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise click.UsageError(f"{option} {path}: the folder {path.parent} does not exist")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise click.UsageError(f"{option} {path}: cannot be written ({error.strerror})") from None


def folder(path: Path | None, option: str) -> Path | None:
    """A folder to write to, made where it is missing, before the work begins.

    Raises:
        click.UsageError: it is a file, it cannot be made, or it may not be written to.
    """
    if path is None:
        return None
    if path.exists() and not path.is_dir():
        raise click.UsageError(f"{option} {path}: it is a file; give the name of a folder")
    try:
        path.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        reason = f"the folder cannot be made or written to ({error.strerror})"
        raise click.UsageError(f"{option} {path}: {reason}; choose another") from None
    return path


def command_line() -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["closegap", *sys.argv[1:]])
