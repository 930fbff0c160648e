#!/bin/bash
# run_instance.sh v1 BENCHMARK ONNX VNNLIB RESULTS TIMEOUT: decide one property. The first line of
# RESULTS is then sat, unsat, timeout, unknown or error; after sat comes the counterexample.
set -uo pipefail

if [ $# -lt 6 ] || [ "$1" != "v1" ]; then
    echo "usage: run_instance.sh v1 BENCHMARK ONNX VNNLIB RESULTS TIMEOUT" >&2
    exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${CLOSEGAP_PYTHON:-$root/vnncomp/.venv/bin/python}
# The organisers count from here and stop us at TIMEOUT: what starting costs is taken off.
whole=${6%.*}
seconds=$((whole > 20 ? whole - 3 : whole * 85 / 100))
"$python" -m closegap verify "$3" "$4" --timeout "$seconds" --result "$5"
code=$?
if [ "$code" -ne 0 ]; then
    echo error >"$5"
fi
exit "$code"
