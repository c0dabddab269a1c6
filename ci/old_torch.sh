#!/bin/sh
# The default test suite on the oldest torch of the range, the one that torch-directml pins, with the newest transformers that runs on it.
# Makes its own environment in .venv-old-torch (about 5 GB, mostly CUDA libraries that torch 2.4.1 brings along) and keeps it for the next time.
# Arguments go to pytest, as in: ci/old_torch.sh -k device
set -eu
cd "$(dirname "$0")/.."
environment=.venv-old-torch
python=${PYTHON:-python3.11}

if [ ! -x "$environment/bin/python" ]; then
    "$python" -m venv "$environment"
fi
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.4.1" "transformers==5.12.1" -e ".[test]"
"$environment/bin/python" -c '
import torch, transformers
found = torch.__version__.partition("+")[0], transformers.__version__
assert found == ("2.4.1", "5.12.1"), found
print("torch", torch.__version__, "transformers", transformers.__version__)'
exec "$environment/bin/python" -m pytest "$@"
