#!/usr/bin/env bash
# Let a merged READ answer by itself, also about what is not there: See and Segment.
#
#   bash test_read.sh [MODEL] [GPUs] [SET|SPLIT, or all] [further flags of test_read.py]
#
# MODEL      folder or hub id (default: runs/read_7b_referseg/merged, from train_read.sh ReferSeg and
#            merge_lora_weight.sh)
# GPUs       processes that share the images (default: 1)
# SET|SPLIT  what is asked (default: fprefcoco|val); all: the three of the table in turn
#
# Published for READ 7B, See accuracy / Segment (cIoU over all questions; not measured here):
#   bash test_read.sh MODEL 1 "fprefcoco|val"     82.87 / 61.50
#   bash test_read.sh MODEL 1 "fprefcoco+|val"    83.51 / 54.54
#   bash test_read.sh MODEL 1 "fprefcocog|val"    84.67 / 56.12
# Further sets: R-refcoco, R-refcoco+, R-refcocog, refcoco, refcoco+, refcocog, ReasonSeg with its
# false premises, and your own; --eval_mode both asks teacher forced as well and prints the gap.
#
# The published numbers were asked with the original's own templates: make that file with
# python -m dataset.templates and add --templates FILE. A run that was killed goes on with the same
# command; python test_read.py --cmd metrics --vis_save_path DIR computes the metrics again.
# Hardware: one GPU with 24 GB for 7B, 40 GB for 13B, in bf16 (estimates). Data: dataset_folder, or
# --dataset_dir DIR. The tiny default runs on a CPU:
#   bash test_read.sh quickstart_output/merged 1 --dataset_dir quickstart_output/data
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
model=runs/read_7b_referseg/merged gpus=1 data="fprefcoco|val"
for name in model gpus data; do
  [[ $# -gt 0 && "$1" != --* ]] || break
  printf -v "$name" %s "$1"
  shift
done
if [[ "$data" == all ]]; then
  for part in fprefcoco{,+,g}\|val; do
    bash "$here/test_read.sh" "$model" "$gpus" "$part" "$@"
  done
  exit 0
fi
launcher=(start python)
[[ "$gpus" == 1 ]] || launcher=(exec python "$here/launch.py" --num_gpus "$gpus")
"${launcher[@]}" "$here/test_read.py" \
  --pretrained_model_path "$model" --val_dataset "$data" --eval_mode generated \
  --vis_save_path "vis_output/${data//|/_}_generated" "$@"
