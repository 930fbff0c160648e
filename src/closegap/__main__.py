"""`python -m closegap`: the same as the `closegap` command."""

from __future__ import annotations

from closegap.cli.main import main

if __name__ == "__main__":
    main()
