"""What a tree of a million domains holds in memory, under a limit."""

from __future__ import annotations

import resource
import time

import click

from closegap.cli.options import size
from closegap.testing.synthetic_tree import grow
from common import print_table

#: As branch and bound shares it: warm starts get one part in four, the tree as much.
_SHARE = 4


@click.command()
@click.option("--nodes", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option("--width", type=click.IntRange(min=1), default=1000, show_default=True,
              help="Numbers in a warm start.")  # fmt: skip
@click.option("--memory", type=size, default="1G", show_default=True, help="Of the search.")
def main(nodes: int, width: int, memory: int) -> None:
    """Grow a tree and print what it held and by how much the process grew."""
    before, began = _peak(), time.process_time()
    grown = grow(nodes, width, memory // _SHARE)
    growth, seconds = _peak() - before, time.process_time() - began
    rows = [
        ("nodes", f"{grown.nodes}"),
        ("all accounted for", str(grown.balanced)),
        ("tree, MiB", f"{grown.tree_bytes / 2**20:.0f}"),
        ("warm starts, MiB", f"{grown.slot_bytes / 2**20:.0f}"),
        ("warm starts held", f"{grown.kept}"),
        ("steps depth first", f"{grown.plunged}"),
        ("peak growth, MiB", f"{growth / 2**20:.0f}"),
        ("of the limit", f"{growth / memory:.2f}"),
        ("processor seconds", f"{seconds:.1f}"),
    ]
    print_table("a tree in memory", ("", ""), rows)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
