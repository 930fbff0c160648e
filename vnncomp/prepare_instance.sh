#!/bin/bash
# prepare_instance.sh v1 BENCHMARK ONNX VNNLIB: check that the files can be read, within the time
# that does not count. Exit code 0: the instance can be run.
set -euo pipefail

if [ $# -lt 4 ] || [ "$1" != "v1" ]; then
    echo "usage: prepare_instance.sh v1 BENCHMARK ONNX VNNLIB" >&2
    exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${CLOSEGAP_PYTHON:-$root/vnncomp/.venv/bin/python}
for file in "$3" "$4"; do
    if [ ! -r "$file" ]; then
        echo "prepare_instance.sh: $file cannot be read" >&2
        exit 1
    fi
done
# Loading it once also brings Python's modules into the file cache.
exec "$python" -m closegap inspect "$3" >/dev/null
