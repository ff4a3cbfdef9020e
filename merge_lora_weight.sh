#!/usr/bin/env bash
# From a training run to a merged model that load_read, demo.py and test_read.py take as it is.
#
#   bash merge_lora_weight.sh EXP_DIR [OUT] [further flags of merge_lora_weight.py]
#
# EXP_DIR  the run folder, such as runs/read_7b; its config.yaml says everything about the model
# OUT      folder to write (default: EXP_DIR/merged)
#
# Takes the best checkpoint; --checkpoint latest takes the newest. Any ZeRO stage and any
# number of ranks may have written it. --push_to_hub OWNER/NAME then uploads the folder and its
# model card to the hub (after `hf auth login`).
# Hardware: no GPU; main memory for the model, its frozen weights in 16 bits, and one of its files
# (computed: 18 GB for 7B and 31 GB for 13B, and the file).
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
# Without EXP_DIR it tells what it would do and with which run folders, and ends with code 2.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
flags=()
[[ $# -gt 0 && "$1" != --* ]] && { flags+=(--exp_dir "$1"); shift; }
if [[ ${#flags[@]} -gt 0 && $# -gt 0 && "$1" != --* ]]; then
  flags+=(--out "$1")
  shift
fi
if [[ ${#flags[@]} -eq 0 && " $* " != *" --exp_dir"* && " $* " != *" --help "* ]]; then
  echo "usage: bash merge_lora_weight.sh EXP_DIR [OUT] [flags of merge_lora_weight.py]"
  echo "merges the best checkpoint of the run EXP_DIR into a model folder, EXP_DIR/merged or OUT"
  shopt -s nullglob
  found=(runs/*/ckpt_model/best quickstart_output/runs/*/ckpt_model/best)
  [[ ${#found[@]} -gt 0 ]] || echo "there is no run with a checkpoint in runs/: train first"
  for best in "${found[@]}"; do
    echo "  bash merge_lora_weight.sh ${best%/ckpt_model/best}    # its checkpoint: $(< "$best")"
  done
  [[ " $* " == *" --dry_run "* ]] || exit 2
  first="${found[0]:-runs/read/ckpt_model/best}"
  flags=(--exp_dir "${first%/ckpt_model/best}")
fi
start python "$here/merge_lora_weight.py" "${flags[@]}" "$@"
