#!/usr/bin/env bash
# The default test suite on the oldest torch of the range: what the extra directml pins (torch 2.4.1, transformers 5.12.1).
# Makes its own environment in .venv-old-torch (about 5 GB, mostly CUDA libraries that torch 2.4.1 brings along) and keeps it for the next time.
# Arguments go to pytest, as in: bash ci/old_torch.sh -k device. PYTHON: another Python 3.11; TRANSFORMERS=5.0.0: another version than the lower end of the range.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=.venv-old-torch
python=${PYTHON:-python3.11}
transformers=${TRANSFORMERS:-5.12.1}

if [ ! -x "$environment/bin/python" ]; then
    "$python" -m venv "$environment"
fi
if [ "$transformers" = 5.12.1 ]; then  # torch-directml itself comes along: without a driver it imports and has no device
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[test,cpu,directml]"
else
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[test,cpu]" "torch==2.4.1" "transformers==$transformers"
fi
"$environment/bin/python" - "$transformers" <<'END'
import sys

import torch
import transformers

found = torch.__version__.partition("+")[0], transformers.__version__
assert found == ("2.4.1", sys.argv[1]), found
print("torch", torch.__version__, "transformers", transformers.__version__)
END
unset PYTHONPATH
exec "$environment/bin/python" -m pytest "$@"
