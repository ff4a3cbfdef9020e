#!/usr/bin/env bash
# Validate a merged READ as the paper does: teacher forced, gIoU and cIoU.
#
#   bash val_read.sh [MODEL] [GPUs] [SET|SPLIT, or all] [further flags of test_read.py]
#
# MODEL      folder or hub id (default: runs/read_7b/merged, from train_read.sh and
#            merge_lora_weight.sh)
# GPUs       processes that share the images (default: 1)
# SET|SPLIT  what is asked (default: ReasonSeg|val); all: every one of these in turn
#
# Published, gIoU/cIoU of ReasonSeg and cIoU of the others (not measured here):
#                                          READ 7B      READ 13B
#   bash val_read.sh MODEL 1 "ReasonSeg|val"      59.8/67.6
#   bash val_read.sh MODEL 1 "ReasonSeg|test"     58.5/58.6    62.2/62.8
#   bash val_read.sh MODEL 1 "ReasonSeg|short"    52.6/49.5
#   bash val_read.sh MODEL 1 "ReasonSeg|long"     60.4/61.0
#   bash val_read.sh MODEL 1 "refcoco|val"        78.1
#   bash val_read.sh MODEL 1 "refcoco|testA"      80.2
#   bash val_read.sh MODEL 1 "refcoco|testB"      73.2
#   bash val_read.sh MODEL 1 "refcoco+|val"       68.4
#   bash val_read.sh MODEL 1 "refcoco+|testA"     73.7
#   bash val_read.sh MODEL 1 "refcoco+|testB"     60.4
#   bash val_read.sh MODEL 1 "refcocog|val"       70.1
#   bash val_read.sh MODEL 1 "refcocog|test"      71.4
#
# ReasonSeg is asked with the fixed templates. RefCOCO/+/g were published with the original's own
# set: make it with python -m dataset.templates and add --templates FILE. For 13B on ReasonSeg add
# --config configs/eval_13b.yaml (60 points, thresholds 0.6 and 0.2, the whole map).
# Hardware: one GPU with 24 GB for 7B, 40 GB for 13B, in bf16 (estimates). Data: dataset_folder, or
# --dataset_dir DIR. The tiny default runs on a CPU:
#   bash val_read.sh quickstart_output/merged 1 "refcoco|testA" --dataset_dir quickstart_output/data
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
model=runs/read_7b/merged gpus=1 data="ReasonSeg|val"
for name in model gpus data; do
  [[ $# -gt 0 && "$1" != --* ]] || break
  printf -v "$name" %s "$1"
  shift
done
if [[ "$data" == all ]]; then
  for part in ReasonSeg\|{val,test,short,long} refcoco{,+}\|{val,testA,testB} refcocog\|{val,test}; do
    bash "$here/val_read.sh" "$model" "$gpus" "$part" "$@"
  done
  exit 0
fi
launcher=(start python)
[[ "$gpus" == 1 ]] || launcher=(exec python "$here/launch.py" --num_gpus "$gpus")
"${launcher[@]}" "$here/test_read.py" \
  --pretrained_model_path "$model" --val_dataset "$data" --eval_mode teacher_forced \
  --vis_save_path "vis_output/${data//|/_}" "$@"
