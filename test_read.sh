#!/usr/bin/env bash
# Evaluate a merged READ on ReasonSeg test: teacher forced as the paper does, and generated answers
# with the false-premise questions (See).
#
#   bash test_read.sh [MODEL] [GPUs] [further flags of test_read.py]
#
# MODEL  folder or hub id (default: runs/read_7b_scratch/merged)
# GPUs   processes that share the pictures (default: 1)
#
# Published, teacher forced: READ 7B 58.5 gIoU / 58.6 cIoU (short 52.6/49.5, long 60.4/61.0),
# 13B 62.2/62.8 (not measured here). For 13B add:
#   --sasp_num_points 60 --sasp_t_pos 0.6 --sasp_t_neg 0.2 --sasp_down_sample 1
# Hardware: one GPU with 24 GB for 7B, 40 GB for 13B, in bf16 (estimates). Data:
# dataset_folder/reason_seg/ReasonSeg/test, or --dataset_dir DIR. The tiny default runs on a CPU:
#   bash test_read.sh quickstart_output/merged 1 --dataset_dir quickstart_output/data
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
model="${1:-runs/read_7b_scratch/merged}"
gpus="${2:-1}"
shift $(($# < 2 ? $# : 2))
[[ -d "$here/.venv/bin" ]] && export PATH="$here/.venv/bin:$PATH"
launcher=(python)
[[ "$gpus" -gt 1 ]] && launcher=(torchrun --standalone --nproc_per_node "$gpus")
exec "${launcher[@]}" "$here/test_read.py" \
  --pretrained_model_path "$model" --val_dataset "ReasonSeg|test" --eval_mode both \
  --vis_save_path vis_output/test "$@"
