"""`closegap verify`: VNN-LIB properties, one or a list of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from closegap.cli.options import (
    command_line,
    number,
    require_writable,
    run_options,
    work_options,
)

if TYPE_CHECKING:
    from closegap.store import Record

__all__ = ["verify_command"]

_DEFAULT_SECONDS = 60.0
_FILE = click.Path(path_type=Path)


@click.command("verify")
@click.argument("model", metavar="[MODEL.onnx", required=False, type=_FILE)
@click.argument("spec", metavar="SPEC.vnnlib]", required=False, type=_FILE)
@click.option("--instances", type=_FILE, help="A list of onnx,vnnlib,timeout rows instead.")
@click.option("--timeout", type=number, help="Seconds a property (default 60); caps a list's own.")
@click.option("--result", type=_FILE, help="Write verdict and witness as VNN-COMP has them.")
@run_options
def verify_command(
    model: Path | None, spec: Path | None, instances: Path | None, **options: Any
) -> None:
    """Decide whether the property of a VNN-LIB file holds for a network.

    sat: a counterexample was found and replayed on the ONNX file; unsat: there is none.
    """
    if instances is not None:
        if model is not None or options["result"] is not None:
            raise click.UsageError("--instances stands instead of MODEL, SPEC and --result")
        _verify_list(instances, options)
        return
    if model is None or spec is None:
        raise click.UsageError("give MODEL.onnx and SPEC.vnnlib, or --instances FILE.csv")
    if options["store"] is not None or options["report"] is not None:
        raise click.UsageError("--store and --report need a list: --instances FILE.csv")
    _verify_one(model, spec, options)


def _verify_list(path: Path, options: dict[str, Any]) -> None:
    from closegap.cli.running import Outputs, run_plan  # heavy: only what is called is loaded
    from closegap.evaluate import InstanceList, ProcessExecutor, plan_instances
    from closegap.specs.vnnlib import load_instances
    from closegap.strategy.solve import DEFAULT_ENGINES, check_engines

    outputs = Outputs(options["store"], options["report"], options["as_json"])
    engines = check_engines(options["engines"] or DEFAULT_ENGINES)
    rows = InstanceList(load_instances(path), str(path), options["timeout"])
    executor = ProcessExecutor(options["workers"])
    work = work_options(engines, executor.threads, options)
    run_plan(plan_instances(rows, work, command=command_line()), executor, outputs, str(path))


def _verify_one(model: Path, spec: Path, options: dict[str, Any]) -> None:
    """One property in one guarded process; this one stays light and keeps the time."""
    from closegap.cli.rows import print_row
    from closegap.core.errors import InputError
    from closegap.evaluate import verify_file
    from closegap.specs.vnnlib import result_word

    result: Path | None = options["result"]
    require_writable(result, "--result")
    if result is not None:
        _write(result, "unknown\n")  # however this run ends, the answer of an earlier one is gone
    seconds = _DEFAULT_SECONDS if options["timeout"] is None else options["timeout"]
    try:
        work = work_options(options["engines"] or (), 1, options)
        record = verify_file(model, spec, timeout=seconds, options=work)
    except InputError:
        if result is not None:
            _write(result, "error\n")
        raise
    if result is not None:
        _write(result, _result_text(record))
    if options["as_json"]:
        print_row(record.row())
        return
    click.echo(result_word(record.verdict, record.reason))
    click.echo(_explanation(record, 9 if options["optimum"] else 6), err=True)


def _result_text(record: Record) -> str:
    from closegap.core.bracket import Witness
    from closegap.specs.vnnlib import result_word, write_result

    pictures = record.pictures
    witness = None
    if pictures is not None:
        witness = Witness(
            input=pictures.witness,
            outputs_float32=pictures.witness_outputs,
            outputs_float64=pictures.witness_outputs_float64,
            margin_float32=record.upper,
            margin_float64=record.upper,
            breaks=True,
        )
    return write_result(result_word(record.verdict, record.reason), witness)


def _explanation(record: Record, digits: int) -> str:
    ends = ", ".join(f"{end:.{digits}g}" for end in (record.lower, record.upper))
    parts = [f"margin in [{ends}]", f"{record.seconds:.2f} s"]
    parts += [f"by {record.engine}"] * bool(record.engine)
    return ", ".join([*parts, *[record.detail] * bool(record.detail)])


def _write(path: Path, text: str) -> None:
    from closegap.core.errors import OptionError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--result {path}: cannot be written ({error.strerror})") from None
