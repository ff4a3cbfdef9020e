#!/usr/bin/env bash
# See how [SEG] works in a merged READ: similarity maps, points and masks of every question.
#
#   bash analyze_read.sh [MODEL] [further flags of analyze_read.py]
#
# MODEL  folder or hub id (default: quickstart_output/merged, written by quickstart.sh)
#
# What is seen, as in section 3.2 of the paper: the similarity of [SEG] with LLaVA's image tokens (on
# any layer, --layers 0-32), with CLIP's patches and with SAM's decoder, of a word with CLIP's
# patches, the points, and the masks of text, points or both. It reproduces no published number: the
# paper does not say where it cuts a map. SAM with the points only needs SAM's own file:
#   bash analyze_read.sh runs/read_7b/merged --dataset_dir dataset_folder --layers 0-32 --vision_pretrained sam_vit_h_4b8939.pth
# Your own images, with a file NAME.txt of questions beside each NAME.jpg:
#   bash analyze_read.sh runs/read_7b/merged --images my_images --eval_mode generated
# An analysis that was killed goes on with the same command; the page is OUT/dashboard.html.
# Hardware: the tiny default needs a CPU; 7B one GPU with 24 GB (an estimate).
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
model="$here/quickstart_output/merged"
if [[ $# -gt 0 && "$1" != --* ]]; then
  model="$1"
  shift
else
  set -- --dataset_dir "$here/quickstart_output/data" --vision_pretrained "$here/tiny/sam.pth" \
    --layers all "$@"
fi
start python "$here/analyze_read.py" --pretrained_model_path "$model" "$@"
