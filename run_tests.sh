#!/usr/bin/env bash
# Lint and the whole test suite; further arguments go to pytest, such as: bash run_tests.sh -k sasp
# With --fast first, tests marked `slow` are left out, which takes a few minutes.
# Tests run in as many processes as there are cores, at most 4; -n 0 runs them in one (for --pdb).
# Needs Python >= 3.10 and, the first time, the package index. No GPU, no model hub. Tests of pages
# run in Chromium, which is installed if that can be done; READ_CHROMIUM=/path/to/it names another.
# Where there is a GPU, tests marked `gpu` run on it first (alone: python -m pytest -m gpu); all
# others compare with figures of a CPU and do not see it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
of_gpu=(-m gpu) others=()
if [[ "${1-}" == --fast ]]; then
  shift
  of_gpu=(-m "gpu and not slow") others=(-m "not slow")
fi
. utils/venv.sh
. tests/browser.sh
make_venv "$PWD" requirements.txt
make_venv "$PWD" requirements-dev.txt
get_browser

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
mypy
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  python -m pytest "${of_gpu[@]}" "$@" || [[ $? -eq 5 ]] # 5: the arguments leave none of them
fi
# A file's tests stay together, since they share what they build.
spread=(-n logical --maxprocesses 4 --dist loadfile)
CUDA_VISIBLE_DEVICES='' exec python -m pytest "${spread[@]}" ${others[@]+"${others[@]}"} "$@"
