#!/usr/bin/env bash
# Validate a merged READ on ReasonSeg val, teacher forced, as the paper does.
#
#   bash val_read.sh [MODEL] [GPUs] [further flags of test_read.py]
#
# MODEL  folder or hub id (default: runs/read_7b/merged, from train_read.sh and merge_lora_weight.sh)
# GPUs   processes that share the pictures (default: 1)
#
# Published: READ 7B on ReasonSeg val 59.8 gIoU / 67.6 cIoU (not measured here).
# Hardware: one GPU with 24 GB for 7B in bf16 (an estimate). Data: dataset_folder/reason_seg/ReasonSeg/val, or
# --dataset_dir DIR. The tiny default runs on a CPU:
#   bash val_read.sh quickstart_output/merged 1 --dataset_dir quickstart_output/data
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
model="${1:-runs/read_7b/merged}"
gpus="${2:-1}"
shift $(($# < 2 ? $# : 2))
[[ -d "$here/.venv/bin" ]] && export PATH="$here/.venv/bin:$PATH"
launcher=(python)
[[ "$gpus" -gt 1 ]] && launcher=(torchrun --standalone --nproc_per_node "$gpus")
exec "${launcher[@]}" "$here/test_read.py" \
  --pretrained_model_path "$model" --val_dataset "ReasonSeg|val" --eval_mode teacher_forced \
  --vis_save_path vis_output/val "$@"
