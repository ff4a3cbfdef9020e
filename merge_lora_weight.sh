#!/usr/bin/env bash
# From a training run to a merged model that load_read, demo.py and test_read.py take as it is.
#
#   bash merge_lora_weight.sh EXP_DIR [OUT] [further flags of merge_lora_weight.py]
#
# EXP_DIR  the run folder, such as runs/read_7b; its config.yaml says everything about the model
# OUT      folder to write (default: EXP_DIR/merged)
#
# Takes the best checkpoint; --checkpoint latest takes the newest. Any ZeRO stage and any number of
# ranks may have written it. Hardware: no GPU; main memory for the model, its frozen weights in 16
# bits, and one of its files (computed: 18 GB for 7B and 31 GB for 13B, and the file).
set -euo pipefail
if [[ $# -lt 1 || "$1" == --* ]]; then
  echo "usage: bash merge_lora_weight.sh EXP_DIR [OUT] [flags]" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$here/.venv/bin/python"
[[ -x "$python" ]] || python=python
flags=(--exp_dir "$1")
shift
if [[ $# -gt 0 && "$1" != --* ]]; then
  flags+=(--out "$1")
  shift
fi
exec "$python" "$here/merge_lora_weight.py" "${flags[@]}" "$@"
