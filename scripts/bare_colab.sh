#!/usr/bin/env bash
# Every notebook as a reader on Colab has it: the newest fastai and fastcore 2, no nbdev, the library installed from a wheel,
# the notebook alone in an empty folder. Cells flagged slow, cuda or data are left out.
#   scripts/bare_colab.sh [BASE_VENV] [NOTEBOOK ...]
# With BASE_VENV, an environment that has the requirements, only what has to be newer is installed, over it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=; if [ -d "${1:-}" ]; then base=$1; shift; fi
env=$(mktemp -d); trap 'rm -rf "$env"' EXIT
export MPLBACKEND=agg OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
"${PYTHON:-python3}" -m venv "$env"
if [ -n "$base" ]; then site "$base" > "$(site "$env")/base.pth"; fi   # its packages come after the environment's own
echo 'import sys; sys.modules.update(dict.fromkeys(["nbdev", "execnb", "ghapi"]))' > "$(site "$env")/no_nbdev.pth"
"$env/bin/pip" install -q -U fastai fastcore fasttransform fastprogress ipython 'setuptools>=77' wheel
"$env/bin/pip" wheel -q --no-deps --no-build-isolation -w "$env/wheel" .
"$env/bin/pip" install -q ${base:+--no-deps} "$env"/wheel/*.whl
root=$PWD
(cd "$env" && "$env/bin/python" - "$root" <<'PY'
import sys, fastcore, fastai, gfa_fastai
from pathlib import Path
if int(fastcore.__version__.split('.')[0]) < 2: sys.exit('bare_colab: this is not fastcore 2')
if Path(sys.argv[1]) in Path(gfa_fastai.__file__).resolve().parents and 'site-packages' not in gfa_fastai.__file__: sys.exit('bare_colab: this is the checkout, not the wheel')
print(f'fastai {fastai.__version__}, fastcore {fastcore.__version__}, Python {sys.version.split()[0]}')
PY
)
shopt -s globstar nullglob
notebooks=("$@"); [ $# -gt 0 ] || notebooks=(nbs/**/[!_]*.ipynb)
PATH="$env/bin:$PATH" "$env/bin/python" scripts/run_plain.py --alone "${notebooks[@]}"
