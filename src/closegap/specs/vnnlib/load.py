"""From a path or a text to a specification."""

from __future__ import annotations

import hashlib
from pathlib import Path

from closegap.core.errors import SpecError
from closegap.core.files import read_file
from closegap.specs.vnnlib.cases import build_cases
from closegap.specs.vnnlib.script import read_script
from closegap.specs.vnnlib.sexpr import SourceText
from closegap.specs.vnnlib.spec import Spec

__all__ = ["load_vnnlib", "parse_vnnlib"]


def load_vnnlib(path: str | Path) -> Spec:
    """Read a VNN-LIB file, which may be gzipped whatever its suffix.

    Raises:
        SpecError: the file cannot be read, or says what is not supported; with line and column.
    """
    source = Path(path)
    try:
        text = read_file(source, SpecError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"not a text file: byte {error.start} is not UTF-8", source=str(source)
        ) from None
    return parse_vnnlib(text, str(source))


def parse_vnnlib(text: str, source: str = "") -> Spec:
    """Read VNN-LIB text.

    Args:
        text: the whole content of a file.
        source: where it comes from, for messages and the specification's name.

    Raises:
        SpecError: with line and column.
    """
    script = read_script(SourceText(text, source or "VNN-LIB text"))
    cases = build_cases(script)
    return Spec(
        cases=cases,
        inputs=len(cases[0].box.lower),
        outputs=cases[0].prop.rows.shape[1],
        source=source,
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )
