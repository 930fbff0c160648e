#!/bin/bash
# install_tool.sh v1: build the environment that the other two scripts use.
#
# CLOSEGAP_PYTHON names a Python that has closegap already; then nothing is installed, and no
# network is needed.
set -euo pipefail

if [ "${1:-}" != "v1" ]; then
    echo "install_tool.sh: expected version v1, got '${1:-}'" >&2
    exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${CLOSEGAP_PYTHON:-}" ]; then
    python3 -m venv "$root/vnncomp/.venv"
    CLOSEGAP_PYTHON=$root/vnncomp/.venv/bin/python
    "$CLOSEGAP_PYTHON" -m pip install --quiet --upgrade pip
    "$CLOSEGAP_PYTHON" -m pip install --quiet --constraint "$root/constraints.txt" "$root"
fi
"$CLOSEGAP_PYTHON" -m closegap --version
