#!/bin/sh
# Installs and trains, on Linux and macOS. Arguments go to continuous_loop.py, as in: ./start_training.sh --data ~/records
# Needs no administrator rights. Started a second time it follows the loop that already runs.
set -u

fail() {
    printf '\nIt did not work: %s.\nFor help: .venv/bin/python -m experts doctor\n' "$1" >&2
    if [ -t 0 ]; then
        printf 'Press Enter to close. ' >&2
        read -r _
    fi
    exit 1
}

is_right() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

cd "$(dirname "$0")" || fail "this folder can't be opened"

python=""
for candidate in python3.12 python3.11 python3 python; do
    if is_right "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Branchwise needs Python 3.11 or 3.12, and neither is on the PATH."
    echo "Linux: your package manager has it (python3.12 and python3.12-venv). macOS: https://www.python.org/downloads/macos/ or: brew install python@3.12"
    if [ -t 0 ]; then
        printf 'Path of a python of 3.11 or 3.12 (Enter alone: stop): '
        read -r python
    fi
    [ -n "$python" ] || fail "no Python 3.11 or 3.12; install one as the lines above say"
    is_right "$python" || fail "what you typed is no Python 3.11 or 3.12"
fi

echo "Using $python"
"$python" experts/installation.py || fail "the installation failed; the lines above say why"

.venv/bin/python -m experts start "$@" ||
    fail "training ended with an error; the lines above say why. What was trained is kept: start this file again to go on"
