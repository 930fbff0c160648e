"""Whatever is wrong with a VNN-LIB file: what is said, and the line and column it is said of."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from closegap.core.errors import SpecError
from closegap.specs.vnnlib import load_vnnlib, parse_vnnlib
from closegap.specs.vnnlib.cases import MAX_TERMS

GOOD = """\
; two inputs, two outputs
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (<= X_0 1))
(assert (>= X_0 -1))
(assert (<= X_1 1.5))
(assert (>= X_1 -1e-3))
(assert (<= Y_0 Y_1))
"""


def with_line(line: str) -> str:
    """A good file and one more command, on line 11."""
    return f"{GOOD}{line}\n"


# A marker stands before the place the error must name; it is taken out before reading.
BAD_LINES = {
    # Syntax.
    "@assert (<= X_0 1)": r"expected '\(' to begin a command, found 'assert'",
    "@)": r"expected '\(' to begin a command, found '\)'",
    "(assert @(<= X_0 1": r"this '\(' is never closed",
    "@(assert (<= X_0 1) ; )": r"this '\(' is never closed",
    "@()": "expected a command .*, found nothing",
    "@((assert (<= X_0 1)))": r"expected a command .*, found '\('",
    "@(asert (<= X_0 1))": r"expected a command \(declare-const, .*\), found 'asert'",
    "@(declare-network f)": "found 'declare-network'",
    "@(assert)": "'assert' takes one formula, got 0",
    "@(assert (<= X_0 1) (<= X_1 1))": "'assert' takes one formula, got 2",
    "(assert @X_0)": "expected a formula, found 'X_0'",
    "(assert @())": "expected one of and, or, .* found nothing",
    "(assert @((<= X_0 1)))": r"expected one of and, or, .* found '\('",
    "(assert @(not (<= X_0 1)))": "expected one of and, or, <=, >=, <, >, = in a formula, .*'not'",
    "(assert (or (and (<= Y_0 0)) @(=> Y_0 Y_1)))": "found '=>'",
    "(assert @(or))": "'or' needs at least one formula",
    "(assert (and @(<= X_0)))": "'<=' compares two terms, got 1",
    "(assert @(>=))": "'>=' compares two terms, got 0",
    "(assert (<= Y_0 @()))": r"expected one of \+, -, \*, / in a term, found nothing",
    "(assert (<= Y_0 @(max Y_0 Y_1)))": "in a term, found 'max'",
    "(assert (<= Y_0 @((+ 1 1))))": r"in a term, found \(",
    "(assert (<= Y_0 @(+)))": r"'\+' needs something to work on",
    "(assert (<= Y_0 @(/ 1)))": "'/' needs two terms or more",
    # Words.
    "(assert (<= @X_2 1))": "unknown variable 'X_2': it is not declared",
    "(assert (<= Y_0 @Y_2))": "unknown variable 'Y_2': it is not declared",
    "(assert (or (and (>= Y_1 Y_0) (<= @X_9 1.0))))": "unknown variable 'X_9'",
    "(assert (<= @X_00 1))": "unknown variable 'X_00'",
    "(assert (<= @Z_0 1))": "'Z_0' is neither a number nor a declared variable",
    "(assert (<= X_0 @1.2.3))": "'1.2.3' is neither a number nor",
    "(assert (<= X_0 @one))": "'one' is neither a number nor",
    "(assert (<= X_0 @nan))": "'nan' is neither a number nor",
    "(assert (<= X_0 @-inf))": "'-inf' is neither a number nor",
    "(assert (<= X_0 @0x10))": "'0x10' is neither a number nor",
    "(assert (<= X_0 @1_0))": "'1_0' is neither a number nor",
    "(assert (<= X_0 @\u0661))": "is neither a number nor",
    "(assert (<= X_0 @1e999))": "the number 1e999 does not fit float64",
    "(assert (<= Y_0 @-1e999))": "the number -1e999 does not fit float64",
    "(assert (<= Y_0 @1/0))": "division by zero in 1/0",
    "(assert (<= Y_0 @(/ 1 0.0)))": "division by zero",
    "(assert @(<= Y_0 (* 1e300 1e300)))": "does not fit float64",
    "(assert @(<= (* 1e-300 X_0) 1e300))": "the bound does not fit float64",
    # Declarations.
    "(declare-const @X_1 Real)": "'X_1' is declared twice",
    "(declare-fun @Y_1 () Real)": "'Y_1' is declared twice",
    "(declare-const @x_2 Real)": "'x_2' is not a variable: inputs are X_0",
    "(declare-const @Y_01 Real)": "'Y_01' is not a variable",
    f"(declare-const @X_{'9' * 5000} Real)": "is not a variable",
    f"(assert (<= @X_{'9' * 5000} 1))": "unknown variable",
    f"(assert (<= X_0 @{'9' * 5000}/1))": "is neither a number nor",
    f"(assert (<= X_0 @1e{'9' * 5000}))": "does not fit float64",
    "(declare-const X_2 @Int)": "'Int' is not supported; use Real",
    "@(declare-const X_2)": r"a declaration reads \(declare-const X_0 Real\)",
    "@(declare-const X_2 (Real))": "a declaration reads",
    "@(declare-fun X_2 (Real) Real)": "must have no arguments",
    "@(declare-fun X_2)": "must have no arguments",
    "(declare-const @X_3 Real)": "'X_3' is declared, but 'X_2' is not",
    "(declare-const @Y_7 Real)": "'Y_7' is declared, but 'Y_2' is not",
    "(declare-const @X_2 Real)": "input X_2 has no lower bound",
    "(assert (>= @X_2 0)) (declare-const X_2 Real)": "unknown variable 'X_2'",
    # What a formula may say.
    "(assert @(<= X_0 Y_0))": "inputs and outputs in one comparison are not supported",
    "(assert (or @(<= 0 (+ X_0 Y_0))))": "inputs and outputs in one comparison",
    "(assert @(<= X_0 X_1))": r"only simple bounds on inputs .* \(<= X_i c\)",
    "(assert @(<= (+ X_0 X_1) 1))": "only simple bounds on inputs",
    "(assert @(<= (* 0 X_0) 1))": "only simple bounds on inputs",
    "(assert @(<= X_0 X_0))": "only simple bounds on inputs",
    "(assert (<= @(* Y_0 Y_1) 1))": "not linear: a product of two terms with variables",
    "(assert (<= @(* 2 X_0 X_0) 1))": "not linear: a product",
    "(assert (<= @(/ 1 Y_0) 1))": "not linear: a division by a term with variables",
    # Boxes.
    "(assert @(<= X_0 -1.5))": "X_0 has no value left: its lower bound -1.0 is above its .* -1.5",
    "(assert @(>= X_1 1.6))": "X_1 has no value left: its lower bound 1.6 is above its .* 1.5",
    "(assert (and @(>= X_1 1.6) (<= Y_0 0)))": "X_1 has no value left",
    "(assert @(= X_0 2))": "X_0 has no value left",
    "(assert (or (and (<= X_0 0) @(>= X_0 0.5)) (<= Y_0 0)))": "X_0 has no value left",
}


@pytest.mark.parametrize("marked", BAD_LINES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_bad_line(marked: str, newline: str) -> None:
    column = marked.index("@") + 1
    text = with_line(marked.replace("@", "", 1)).replace("\n", newline)
    with pytest.raises(SpecError, match=BAD_LINES[marked]) as info:
        parse_vnnlib(text, "some.vnnlib")
    error = info.value
    assert (error.line, error.column) == (11, column)
    assert str(error).startswith(f"some.vnnlib:11:{column}: ")
    assert "\n" not in str(error) and len(str(error)) < 250


def test_the_good_file_is_good() -> None:
    spec = parse_vnnlib(with_line("; nothing more"))
    assert (spec.inputs, spec.outputs, len(spec.cases)) == (2, 2, 1)


@pytest.mark.parametrize(
    ("line", "side", "column"),
    [(6, "upper", 16), (7, "lower", 16), (8, "upper", 16), (9, "lower", 16)],
)
def test_missing_bound_names_input_side_and_declaration(line: int, side: str, column: int) -> None:
    lines = GOOD.splitlines(keepends=True)
    del lines[line - 1]
    which = 0 if line < 8 else 1
    with pytest.raises(SpecError, match=f"input X_{which} has no {side} bound") as info:
        parse_vnnlib("".join(lines), "f")
    assert (info.value.line, info.value.column) == (2 + which, column)


def test_bound_missing_in_one_case_only() -> None:
    text = GOOD.replace("(assert (<= X_0 1))", "(assert (or (<= X_0 1) (<= Y_0 3)))")
    with pytest.raises(SpecError, match="input X_0 has no upper bound"):
        parse_vnnlib(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no input is declared"),
        ("; only a comment", "no input is declared"),
        ("(declare-const X_0 Real)", "no output is declared"),
        ("(declare-const Y_0 Real)", "no input is declared"),
        (GOOD.replace("(assert (<= Y_0 Y_1))", ""), "nothing is asserted of the outputs"),
        (
            f"{GOOD}(assert (or (<= X_0 0) (<= X_0 0.1)))(assert (or (>= X_0 0.5) (>= X_0 0.6)))",
            "no input satisfies the assertions",
        ),
    ],
)
def test_whole_file(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"^f: {message}"):
        parse_vnnlib(text, "f")


class TestSize:
    def either(self, count: int) -> str:
        part = "(assert (or (<= Y_0 0) (>= Y_1 1)))\n"
        return GOOD + part * count

    def test_within_the_limit(self) -> None:
        assert parse_vnnlib(self.either(10)).cases[0].prop.clauses <= 2**10 <= MAX_TERMS

    def test_blow_up_is_refused_at_the_assertion_that_goes_beyond(self) -> None:
        assert 2**13 <= MAX_TERMS < 2**14
        with pytest.raises(SpecError, match=r"expand to 16384 or more alternatives, above .*10000"):
            parse_vnnlib(self.either(100), "f")
        with pytest.raises(SpecError) as info:
            parse_vnnlib(self.either(100), "f")
        assert (info.value.line, info.value.column) == (10 + 14, 9)

    def test_one_long_disjunction(self) -> None:
        atoms = " ".join(f"(<= Y_0 {i})" for i in range(MAX_TERMS + 1))
        with pytest.raises(SpecError, match="expand to 10001 or more"):
            parse_vnnlib(f"{GOOD}(assert (or {atoms}))")

    def test_deep_nesting(self) -> None:
        def nested(depth: int) -> str:
            return f"{GOOD}(assert {'(and ' * depth}(<= Y_0 0){')' * depth})"

        assert parse_vnnlib(nested(62)).cases[0].prop.clauses == 1
        with pytest.raises(SpecError, match="nested deeper than 64 groups") as info:
            parse_vnnlib(nested(100_000))
        assert (info.value.line, info.value.column) == (11, 9 + 5 * 63)


class TestFiles:
    def test_gzip_is_known_by_its_content(self, tmp_path: Path) -> None:
        for name, data in (("a.vnnlib", GOOD.encode()), ("b.txt", gzip.compress(GOOD.encode()))):
            (tmp_path / name).write_bytes(data)
        plain, zipped = (load_vnnlib(tmp_path / name) for name in ("a.vnnlib", "b.txt"))
        assert plain.digest == zipped.digest != parse_vnnlib(f"{GOOD};").digest
        assert (plain.name, zipped.name) == ("a", "b.txt")

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
        assert load_vnnlib(str(tmp_path / "a")).inputs == 2

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (gzip.compress(GOOD.encode(), mtime=0)[:-9], "truncated gzip file"),
            (b"\x1f\x8b" + b"\x08" * 40, "damaged gzip file|truncated gzip file"),
            (gzip.compress(GOOD.encode(), mtime=0)[:30] + b"\0" * 50, "damaged gzip file"),
            (GOOD.encode() + b"\xff", f"not a text file: byte {len(GOOD)} is not UTF-8"),
        ],
    )
    def test_damage(self, tmp_path: Path, data: bytes, message: str) -> None:
        (tmp_path / "a.vnnlib").write_bytes(data)
        with pytest.raises(SpecError, match=message) as info:
            load_vnnlib(tmp_path / "a.vnnlib")
        assert "a.vnnlib" in str(info.value)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"absent.vnnlib: no such file"):
            load_vnnlib(tmp_path / "absent.vnnlib")
        with pytest.raises(SpecError, match="is a folder"):
            load_vnnlib(tmp_path)


def test_commands_of_smt_lib_are_skipped() -> None:
    extra = "(set-logic QF_LRA)(set-info :status sat)\n(check-sat)(get-model)(exit)"
    assert parse_vnnlib(extra + GOOD).inputs == 2


def test_spacing_and_comments_do_not_matter() -> None:
    spread = GOOD.replace(")", ";\n ) ").replace("(", " ;(\n ( ;)\n\t ").replace(" Y_1", "\n;\nY_1")
    tight = "".join(GOOD.split("\n")[1:]).replace(") (", ")(")
    assert parse_vnnlib(spread).cases[0].box.lower.tolist() == [-1, -1e-3]
    assert parse_vnnlib(tight).cases[0].prop.names == parse_vnnlib(spread).cases[0].prop.names
