#!/usr/bin/env bash
# The tests on the newest fastai and fastcore, without nbdev. (The pages on them: scripts/colab.sh --newest.)
#   scripts/newest_stack.sh [BASE_VENV]
# With BASE_VENV, an environment that has the requirements, only what has to be newer is installed, over it (seconds);
# without it, everything is (minutes). NEWEST_VENV=FOLDER keeps the environment there; else it is made and thrown away.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=${1:-}
if [ -n "${NEWEST_VENV:-}" ]; then env=$NEWEST_VENV; else env=$(mktemp -d); trap 'rm -rf "$env"' EXIT; fi
export MPLBACKEND=agg OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
if [ -n "$base" ]; then
    [ -x "$base/bin/python" ] || { echo "newest_stack: no $base/bin/python; BASE_VENV is the folder of an environment" >&2; exit 2; }
    "$base/bin/python" -m venv "$env"
    site "$base" > "$(site "$env")/base.pth"   # a .pth entry comes after the environment's own packages
else
    "${PYTHON:-python3}" -m venv "$env"
fi
# nbdev and its runner are not there, even where the base has them
echo 'import sys; sys.modules.update(dict.fromkeys(["nbdev", "execnb", "ghapi"]))' > "$(site "$env")/no_nbdev.pth"

# (pip may complain that the base's nbdev family wants an older fastcore: it is right, and nobody uses it here)
"$env/bin/pip" install -q -U fastai fastcore fasttransform fastprogress
"$env/bin/pip" install -q pytest ipython -e .
"$env/bin/python" - <<'PY'
import sys, importlib.util, fastai, fastcore, torch
from importlib.metadata import version
print(f'Python {sys.version.split()[0]}, fastai {fastai.__version__}, fastcore {fastcore.__version__}, fasttransform {version("fasttransform")}, torch {torch.__version__}')
if int(fastcore.__version__.split('.')[0]) < 2: sys.exit('newest_stack: this is not fastcore 2')
if importlib.util.find_spec('nbdev'): sys.exit('newest_stack: nbdev is still importable')
PY
PATH="$env/bin:$PATH" "$env/bin/python" -m pytest tests -q
