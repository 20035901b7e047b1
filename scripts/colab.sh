#!/usr/bin/env bash
# Every page as Run all on Colab: on the packages that Colab has, the library from its wheel, each page alone in an
# empty folder, every cell, at most ten minutes a page.
#   scripts/colab.sh [--pretend-gpu] [--newest] [--venv FOLDER] [--minutes N] [--keep FOLDER] [NOTEBOOK ...]
# --pretend-gpu   the same pages where torch says that there is a GPU (tests/pretend_gpu.py)
# --newest        on the newest fastai and fastcore in place of Colab's pins
# --venv FOLDER   keep the environment there, and use what is installed there the next time
# --minutes N     what a page may take, instead of ten minutes
# --keep FOLDER   keep the executed pages there
# PYTHON says which Python (default python3.13, Colab's).
#
# The pins are in scripts/colab_constraints.txt, with their date and how to renew them. They are installed first; then
# the library is, and what the install cells of the pages have beside it, as on Colab: pip leaves alone what satisfies
# the requirements. If that moved a pinned package, this fails and says which.
#
# What it cannot see: Colab's own front end (its widget manager, its output frames), a real GPU (kernels, memory, fp16,
# NCCL), Drive, the install cell itself (no google.colab here, so it does not run) and downloads; the packages of Colab
# that are not on the list; what Colab's own patches to IPython change; the front page's picture, a file beside the
# page, which a page that was uploaded by hand lacks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
newest= venv= options=()
while [ $# -gt 0 ]; do
    case $1 in
        --pretend-gpu) export PRETEND_GPU=1; shift ;;
        --newest) newest=1; shift ;;
        --venv) venv=$2; shift 2 ;;
        --minutes | --keep) options+=("$1" "$2"); shift 2 ;;
        -*) echo "colab.sh: unknown option $1" >&2; exit 2 ;;
        *) break ;;
    esac
done
shopt -s globstar nullglob
notebooks=("$@"); [ $# -gt 0 ] || notebooks=(nbs/**/[!_]*.ipynb)
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
venv=${venv:-$tmp/venv}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH IN_TEST MPLBACKEND

pins=scripts/colab_constraints.txt
[ -x "$venv/bin/python" ] || "${PYTHON:-python3.13}" -m venv "$venv"
if [ -n "$newest" ]; then
    "$venv/bin/pip" install -q -U fastai fastcore fasttransform fastprogress ipython ipykernel ipywidgets nbclient
else
    "$venv/bin/pip" install -q -r $pins
fi
"$venv/bin/pip" uninstall -q -y gfa_fastai 2> "$tmp/uninstall"
versions() { "$venv/bin/pip" list --format=freeze | grep -iv '^gfa[_-]fastai=' | sort; }
versions > "$tmp/before"
"$venv/bin/pip" wheel -q --no-deps -w "$tmp/wheel" .
extras=$(grep -hoE '%pip install -q [^"]*' "${notebooks[@]}" | cut -d' ' -f5- | tr ' ' '\n' | sort -u)   # beside the library
# shellcheck disable=SC2086
"$venv/bin/pip" install -q "$tmp"/wheel/*.whl $extras
versions > "$tmp/after"
moved=$(comm -23 "$tmp/before" "$tmp/after")
if [ -n "$moved" ] && [ -z "$newest" ]; then
    echo "colab.sh: installing the library moved what Colab has:" >&2
    echo "$moved" >&2
    exit 1
fi
echo "installed beside it: $(comm -13 "$tmp/before" "$tmp/after" | paste -sd' ')"
root=$PWD
(cd "$tmp" && "$venv/bin/python" - "$root" "$newest" <<'PY'
import importlib.util, sys
from importlib.metadata import version
from pathlib import Path
import gfa_fastai
root, newest = Path(sys.argv[1]), sys.argv[2]
here = Path(gfa_fastai.__file__).resolve()
if root in here.parents and 'site-packages' not in str(here): sys.exit('colab.sh: this is the checkout, not the wheel')
if importlib.util.find_spec('nbdev'): sys.exit('colab.sh: nbdev is importable; Colab has none')
if newest and int(version('fastcore').split('.')[0]) < 2: sys.exit('colab.sh: this is not fastcore 2')
names = 'fastai', 'fastcore', 'ipython', 'numpy', 'pandas', 'torch', 'opencv-python'
print(f'Python {sys.version.split()[0]},', ', '.join(f'{n} {version(n)}' for n in names))
PY
)
PATH="$venv/bin:$PATH" "$venv/bin/python" scripts/run_plain.py --alone "${options[@]}" "${notebooks[@]}"
