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
# GPUs        how many to use (default: all that there are), or which: localhost:0,1, in the syntax
#             of deepspeed --include
# port        of the launcher (default: 24999)
#
# Scratch and 13B-stage1 need --vision_pretrained, SAM's sam_vit_h_4b8939.pth. Flags behind the port
# win over the preset: bash train_read.sh ReasonSeg 8 24999 --dataset_dir /data --epochs 4
#
# Several machines, those in a file of lines "HOST slots=8" as of deepspeed --hostfile, over ssh:
#   HOSTFILE=FILE bash train_read.sh ReasonSeg 8 24999
#   HOSTFILE=FILE bash train_read.sh ReasonSeg host1:0,1@host2:0 24999
# Or by torchrun, on each machine with its own RANK of 0 to N-1:
#   torchrun --nnodes N --node_rank RANK --nproc_per_node 8 --master_addr HOST --master_port 24999 \
#     train_read.py --config configs/read_7b.yaml
# SIGTERM saves and ends with code 143; so does SIGUSR1 (Slurm: --signal=USR1@300). deepspeed, which
# starts the processes on several machines, hands on neither: signal its ranks.
#
# Hardware, 8 GPUs for the published batch, computed by python -m utils.memory CONFIG and not
# measured: 7B about 19 GiB on each, 13B about 32 GiB. The same command goes on after a kill.
# --dry_run, also as the first argument, shows the command and its configuration and does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/utils/start.sh"
[[ "${1:-}" == --dry_run ]] && set -- "${@:2}" --dry_run
task=ReasonSeg gpus="" port=24999
for name in task gpus port; do
  [[ $# -gt 0 && "$1" != --* ]] || break
  printf -v "$name" %s "$1"
  shift
done
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
launcher=(python "$here/launch.py" --master_port "$port")
case "$gpus" in
  "") ;;
  *[!0-9]*) launcher+=(--include "$gpus") ;;
  *) launcher+=(--num_gpus "$gpus") ;;
esac
[[ -n "${HOSTFILE:-}" ]] && launcher+=(--hostfile "$HOSTFILE")
exec "${launcher[@]}" "$here/train_read.py" --config "$here/configs/$preset.yaml" "$@"
