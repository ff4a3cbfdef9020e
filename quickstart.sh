#!/usr/bin/env bash
# The whole of READ on a small scale, from an empty machine to a report:
#   bash quickstart.sh           about 5 minutes on 2 CPU cores, installation apart
#   bash quickstart.sh --fast    a short training, to see that everything works
# Makes .venv, installs requirements.txt, draws a toy world, trains configs/tiny.yaml with DeepSpeed
# (on a GPU if there is one), validates, merges LoRA, evaluates on unseen pictures, runs the demo,
# and writes quickstart_output/report.html. Flags: --help lists them all.
# Needs Python >= 3.10 and, the first time, the package index. No GPU, no model hub.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/utils/venv.sh"
make_venv "$here" requirements.txt
exec python "$here/quickstart.py" "$@"
