"""The `closegap` command: finds the subcommand's file, and turns errors into one line and a code.

Exit codes: 0 done, whatever the verdicts; 1 an internal error; 2 misuse or bad input;
130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import FrameType

import click

import closegap
from closegap.core.errors import InputError, MissingDependencyError

__all__ = ["cli", "main", "run"]

_DONE, _INTERNAL, _MISUSE, _INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class _Entry:
    """Where a command lies, and its line in the overview."""

    place: str
    help: str


_COMMANDS: dict[str, _Entry] = {
    "evaluate": _Entry("evaluate:evaluate_command", "Bracket the robust accuracy on images."),
    "verify": _Entry("verify:verify_command", "Decide VNN-LIB properties."),
    "attack": _Entry("attack:attack_command", "Search for adversarial images with one method."),
    "report": _Entry("report:report_command", "Write a run's HTML report."),
    "inspect": _Entry("inspect:inspect_command", "Say what a network is made of."),
    "demo": _Entry("demo:demo_command", "Evaluate the packaged digits network."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's file only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        file, _, name = entry.place.partition(":")
        command: click.Command = getattr(import_module(f"closegap.cli.{file}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(closegap.__version__, prog_name="closegap")
def cli() -> None:
    """Find out exactly how robust a neural network is.

    Attacks push the upper end of a bracket down, proofs push the lower end up, until the two meet.
    """


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name.

    Returns:
        the exit code.
    """
    former = signal.signal(signal.SIGINT, _interrupt_once)
    code = _guarded(arguments)
    if code != _INTERRUPTED:  # else a second Ctrl-C stays harmless until the process has gone
        signal.signal(signal.SIGINT, former)
    return code


def _guarded(arguments: Sequence[str]) -> int:
    """Run it; every way to end has its code."""
    try:
        result = cli.main(list(arguments), prog_name="closegap", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else _DONE
    except (KeyboardInterrupt, click.Abort) as error:
        _say(f"interrupted{_what_is_kept(error)}")
        return _INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return _MISUSE
    except click.ClickException as error:
        return _refuse(error.format_message())
    except (InputError, MissingDependencyError) as error:
        return _refuse(str(error))
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:
        return _internal(error)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Unwind at the first Ctrl-C; further ones must not disturb what is being put in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _what_is_kept(error: BaseException) -> str:
    """The note of the interruption, which click hides behind an `Abort` of its own."""
    notes = getattr(error.__cause__ or error, "__notes__", [])
    return f"; {notes[0]}" if notes else ""


def _refuse(text: str) -> int:
    if os.environ.get("CLOSEGAP_DEBUG") == "1":
        traceback.print_exc()
    _say(f"error: {' '.join(text.split())}")
    return _MISUSE


def _reader_left() -> int:
    """Whoever read our output closed it (`| head`): stop quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _INTERNAL


def _internal(error: Exception) -> int:
    if os.environ.get("CLOSEGAP_DEBUG") == "1":
        traceback.print_exc()
        advice = ""
    else:
        advice = "; set CLOSEGAP_DEBUG=1 to see where"
    lines = str(error).strip().splitlines() or [""]
    _say(f"internal error: {type(error).__name__}: {lines[0]}{advice}")
    return _INTERNAL


def _say(text: str) -> None:
    print(f"closegap: {text}", file=sys.stderr, flush=True)
