#!/usr/bin/env bash
# Train READ as published, by one command for each recipe.
#
#   bash train_read.sh [RECIPE] [GPUs] [port] [further flags of train_read.py]
#
# RECIPE      preset in configs/      published (not measured here)
# ReasonSeg   read_7b.yaml            7B from SESAME: ReasonSeg val 59.8 gIoU / 67.6 cIoU
# ReferSeg    read_7b_referseg.yaml   7B from SESAME: RefCOCO val 78.1, RefCOCO+ val 68.4,
#                                     RefCOCOg val 70.1 cIoU
# Scratch     read_7b_scratch.yaml    7B from LLaVA-1.5: ReasonSeg test 58.5 gIoU / 58.6 cIoU
# 13B-stage1  read_13b_stage1.yaml    13B from LLaVA-1.5; merge it, then:
# 13B-stage2  read_13b_stage2.yaml    13B: ReasonSeg test 62.2 gIoU / 62.8 cIoU
# GPUs        how many to use (default: all that there are)
# port        of the launcher (default: 24999)
#
# Scratch and 13B-stage1 need --vision_pretrained, SAM's sam_vit_h_4b8939.pth. Flags behind the port
# win over the preset: bash train_read.sh ReasonSeg 8 24999 --dataset_dir /data --epochs 4
#
# Several machines, those in a file of lines "HOST slots=8" as of deepspeed --hostfile, over ssh:
#   HOSTFILE=FILE bash train_read.sh ReasonSeg 8 24999
# Or by torchrun, on each machine with its own RANK of 0 to N-1:
#   torchrun --nnodes N --node_rank RANK --nproc_per_node 8 --master_addr HOST --master_port 24999 \
#     train_read.py --config configs/read_7b.yaml
# SIGTERM saves and ends with code 143; so does SIGUSR1, sent to every process of a job (Slurm:
# --signal=USR1@300). deepspeed itself, signalled, gives its ranks 30 s.
#
# Hardware, 8 GPUs for the published batch, computed by python -m utils.memory CONFIG and not
# measured: 7B about 19 GiB on each, 13B about 32 GiB. The same command goes on after a kill.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
task="${1:-ReasonSeg}"
gpus="${2:-}"
port="${3:-24999}"
shift $(($# < 3 ? $# : 3))
case "$task" in
  ReasonSeg) preset=read_7b ;;
  ReferSeg) preset=read_7b_referseg ;;
  Scratch) preset=read_7b_scratch ;;
  13B-stage1) preset=read_13b_stage1 ;;
  13B-stage2) preset=read_13b_stage2 ;;
  *)
    echo "error: unknown recipe '$task'; give ReferSeg, ReasonSeg, Scratch, 13B-stage1 or 13B-stage2" >&2
    exit 2
    ;;
esac
[[ -d "$here/.venv/bin" ]] && export PATH="$here/.venv/bin:$PATH"
launcher=(deepspeed --master_port "$port")
[[ -n "$gpus" ]] && launcher+=(--num_gpus "$gpus")
[[ -n "${HOSTFILE:-}" ]] && exec "${launcher[@]}" --hostfile "$HOSTFILE" "$here/train_read.py" \
  --config "$here/configs/$preset.yaml" "$@"

# deepspeed hands no SIGTERM on; SIGUSR1, which launchers ignore from here on, reaches the ranks.
trap '' USR1
(trap - INT; exec "${launcher[@]}" "$here/train_read.py" \
  --config "$here/configs/$preset.yaml" "$@") &
running=$!
ask_below() {
  local child
  for child in $(pgrep -P "$1"); do
    kill -USR1 "$child" 2>/dev/null || true
    ask_below "$child"
  done
}
trap 'ask_below "$running"' TERM
trap : INT
code=0
wait "$running" || code=$?
while kill -0 "$running" 2>/dev/null; do
  code=0
  wait "$running" || code=$?
done
exit "$code"
