#!/bin/sh
# Before anything is installed: is what `make run` needs here? Says the line that puts it right.
# Usage: check.sh PYTHON
set -eu
python=$1
stop() { echo "error: $1" >&2; exit 1; }

command -v "$python" >/dev/null || stop "$python is not here: sudo apt install python3 python3-venv (or make PYTHON=/path/to/python3.11)."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    || stop "$python is $("$python" -V), but 3.11, 3.12 or 3.13 is wanted: make PYTHON=/path/to/python3.11."
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "$python has no venv: sudo apt install python3-venv."
command -v git >/dev/null || stop "git is not here: sudo apt install git."
free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ "$free" -ge 6 ] || stop "only $free GiB are free here; the environment and the laptop run take 6 (12 where pip brings torch's CUDA build)."
