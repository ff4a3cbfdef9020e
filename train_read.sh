#!/usr/bin/env bash
# Train READ 7B from SESAME, as published.
#
#   bash train_read.sh [ReferSeg|ReasonSeg] [GPUs] [port] [further flags of train_read.py]
#
# ReasonSeg  configs/read_7b.yaml        published: ReasonSeg val 59.8 gIoU / 67.6 cIoU
# ReferSeg   configs/read_7b_refer.yaml  published: RefCOCO val 78.1, RefCOCO+ val 68.4,
#                                        RefCOCOg val 70.1 cIoU
# GPUs       how many to use (default: all that there are)
# port       of the launcher (default: 24999)
#
# Hardware: 8 GPUs with 80 GB for the published batch size (an estimate). Flags behind the port win over the
# preset, for example: bash train_read.sh ReasonSeg 8 24999 --dataset_dir /data --epochs 4
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
task="${1:-ReasonSeg}"
gpus="${2:-}"
port="${3:-24999}"
shift $(($# < 3 ? $# : 3))
case "$task" in
  ReasonSeg) preset="$here/configs/read_7b.yaml" ;;
  ReferSeg) preset="$here/configs/read_7b_refer.yaml" ;;
  *)
    echo "error: unknown task '$task'; give ReferSeg or ReasonSeg" >&2
    exit 2
    ;;
esac
[[ -d "$here/.venv/bin" ]] && export PATH="$here/.venv/bin:$PATH"
launcher=(deepspeed --master_port "$port")
[[ -n "$gpus" ]] && launcher+=(--num_gpus "$gpus")
exec "${launcher[@]}" "$here/train_read.py" --config "$preset" "$@"
