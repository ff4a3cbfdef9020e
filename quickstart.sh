#!/usr/bin/env bash
# The whole of READ on a small scale, from an empty machine to a report:
#   bash quickstart.sh           about 5 minutes on 2 CPU cores, installation apart
#   bash quickstart.sh --fast    a short training, to see that everything works
# Makes .venv, installs requirements.txt, draws a toy world, trains configs/tiny.yaml with DeepSpeed
# (on a GPU if there is one), validates, merges LoRA, evaluates on unseen images, runs the demo,
# and writes quickstart_output/report.html. Flags: --help lists them all.
# Needs Python >= 3.10 and, the first time, the package index. No GPU, no model hub.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
. "$here/utils/venv.sh"
if [[ " $* " != *" --dry_run "* && " $* " != *" --help "* ]]; then
  make_venv "$here" requirements.txt
elif [[ ! -x "$here/.venv/bin/python" ]]; then
  echo "would make .venv, install requirements.txt into it, and run: python quickstart.py $*"
  exit 0
fi
exec python "$here/quickstart.py" "$@"
