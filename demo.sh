#!/usr/bin/env bash
# Ask a merged READ about your images: a chat in the terminal.
#
#   bash demo.sh [MODEL] [further flags of demo.py]
#
# MODEL  folder or hub id (default: quickstart_output/merged, written by quickstart.sh)
#
# A page in the browser: bash demo.sh MODEL --web  (needs gradio: pip install -r requirements-web.txt)
# One question only: bash demo.sh MODEL --image photo.jpg --prompt "Which part lets the plane steer?"
# Reproduces no number. Hardware: the tiny default needs a CPU; 7B (estimates) 24 GB, or 8 GB with
# --load_in_4bit.
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
model="$here/quickstart_output/merged"
if [[ $# -gt 0 && "$1" != --* ]]; then
  model="$1"
  shift
fi
start python "$here/demo.py" --pretrained_model_path "$model" "$@"
