"""From a training run to a merged folder that `load_read` takes without any flag.

`bash merge_lora_weight.sh EXP_DIR [OUT]` is the short form. The model is built again from the run's
saved configuration, the trained parts of the checkpoint are put in, LoRA is folded into the
weights, and the saved folder has to answer a question as the unmerged model did. The frozen weights
stay in the precision of the run, and each is widened while it works: the answers are those of
float32, the memory is that of the model.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from model.adapter import save_adapter
from model.builder import load_read, save_model
from model.float32 import float32_linears, widen_small
from model.lora import merge, unwrap
from model.read_model import TOWER_FOLDER, ReadForCausalLM
from model.reader import Answer, Reader
from train_read import CHECKPOINTS, CONFIG_FILE, build_model
from utils import config, engine
from utils.checkpoint import BEST, LATEST, CheckpointStore, check_space
from utils.conversation import POSITIVE_ANSWER
from utils.errors import InputError, cli
from utils.options import MergeOptions, TrainOptions
from utils.run_lock import RunLock

QUESTION = "What is the bright square in this image? Please output segmentation mask."
MOST_NEW_TOKENS = 24
MOST_DIFFERING_PIXELS = 0.001
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def trial_picture() -> np.ndarray:
    """uint8[120, 160, 3]: a bright square on a gradient, the same every time."""
    ramp = np.linspace(0, 120, 160, dtype=np.uint8)
    picture = np.repeat(np.tile(ramp, (120, 1))[..., None], 3, axis=2)
    picture[30:80, 50:100] = (240, 220, 60)
    return picture


def trial_answers(reader: Reader) -> list[Answer]:
    """A generated and a teacher-forced answer about the trial picture."""
    picture = reader.open(trial_picture())
    return [
        reader.segment(picture, QUESTION, max_new_tokens=MOST_NEW_TOKENS),
        reader.segment(picture, QUESTION, answer=POSITIVE_ANSWER),
    ]


def check_equal(before: list[Answer], after: list[Answer], what: str) -> None:
    """The same tokens, and masks that differ in at most 0.1 % of the pixels.

    Raises:
        InputError: they differ; nothing that was merged should be used then.
    """
    for one, other in zip(before, after, strict=True):
        differing = float(np.mean(one.mask != other.mask))
        if one.token_ids != other.token_ids or differing > MOST_DIFFERING_PIXELS:
            raise InputError(
                f"{what} does not answer as the trained one: {one.text!r} became {other.text!r}, "
                f"{differing:.2%} of the mask's pixels differ; do not use it"
            )


def answers_of(reader: Reader) -> list[Answer]:
    """`trial_answers` in float32, from weights as they are stored."""
    widen_small(reader.model)
    with float32_linears(reader.model):
        return trial_answers(reader)


def round_own(model: ReadForCausalLM, dtype: torch.dtype) -> None:
    """Round weights in place, but for CLIP's, which are not stored; buffers keep every digit."""
    for name, parameter in model.named_parameters():
        if TOWER_FOLDER not in name:
            parameter.data = parameter.data.to(dtype)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `folder` at the end of `with`.

    If anything fails, what was written is removed and an older `folder` stays as it is.
    """
    partial = Path(f"{folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_model(model: ReadForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The merged model.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        save_model(model, tokenizer, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the merged model {folder} ({error}): free space on that disk, or give "
            "another --out"
        ) from error


def needed_bytes(
    options: MergeOptions, model: PeftModel | ReadForCausalLM, dtype: torch.dtype
) -> dict[Path, int]:
    """What is written -> its bytes: all weights but CLIP's in `dtype`, and CLIP's own files."""
    read = unwrap(model)
    tower = read.model.vision_tower
    clip = Path(tower.source) if tower is not None else None
    size = {
        name: parameter.numel() * dtype.itemsize
        for name, parameter in model.named_parameters()
        if TOWER_FOLDER not in name
    }
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    lora = [name for name in trained if "lora_" in name]
    files = clip.rglob("*") if clip is not None and clip.is_dir() else ()
    needed = {
        options.folder: sum(size.values())
        - sum(size[name] for name in lora)
        + sum(file.stat().st_size for file in files if file.is_file())
    }
    if options.adapter:
        needed[Path(options.adapter)] = sum(size[name] for name in trained)
    return needed


def hold_folders(options: MergeOptions, held: ExitStack) -> None:
    """Keep other merges from the folders to write until `held` ends; they are replaced as a whole.

    Raises:
        InputError: another one is at work, or a folder cannot be written.
    """
    for flag, folder in (("--out", options.folder), ("--adapter", options.adapter)):
        if folder is not None:
            lock = Path(f"{Path(folder).absolute()}.lock")
            held.enter_context(RunLock(lock, f"the folder {folder}", f"give another {flag}"))


def write_adapter(model: PeftModel | ReadForCausalLM, folder: Path, dtype: torch.dtype) -> None:
    """The adapter folder, whole or not at all; `load_read(VERSION, adapter=FOLDER)` applies it."""
    with whole_folder(folder) as partial:
        save_adapter(model, partial, dtype)
    print(f"adapter: {folder}", flush=True)


def merge_run(options: MergeOptions) -> Path:
    """Merge the checkpoint that `options` names; returns the folder written.

    Raises:
        InputError: no run or checkpoint there, it does not fit its configuration, or the merged
            model answers differently.
    """
    with ExitStack() as held:
        hold_folders(options, held)
        return merge_alone(options)


def merge_alone(options: MergeOptions) -> Path:
    """As `merge_run`; no other process writes to the folders meanwhile."""
    run_dir = Path(options.exp_dir)
    trained = config.load(TrainOptions, run_dir / CONFIG_FILE)
    store = CheckpointStore(run_dir / CHECKPOINTS)
    state = store.load(options.checkpoint)
    if state is None:
        raise InputError(
            f"{store.folder} has no {options.checkpoint} checkpoint; train first, or see that "
            "the run got as far as its first validation"
        )
    print(f"merging {store.folder / state.tag} ({options.checkpoint})", flush=True)
    with whole_folder(options.folder) as partial:
        rounded = write_merged(options, trained, store, state.tag, partial)
        stored = load_read(partial, dtype=trained.precision, device="cpu")
        check_equal(rounded, answers_of(stored), f"the model loaded from {partial}")
    return options.folder


def write_merged(
    options: MergeOptions, trained: TrainOptions, store: CheckpointStore, tag: str, folder: Path
) -> list[Answer]:
    """Merge a checkpoint into `folder`; returns what its rounded weights answer.

    Raises:
        InputError: as `merge_run`.
    """
    dtype = TORCH_DTYPES[trained.precision]
    plain = dataclasses.replace(
        trained, load_in_4bit=False, load_in_8bit=False, attn_implementation=None
    )
    model, built = build_model(plain)
    check_space(needed_bytes(options, model, dtype), "free space there, or give another folder")
    widen_small(model)
    try:
        engine.load_trained(model, store.folder, tag)
    except InputError as error:
        other = LATEST if options.checkpoint == BEST else BEST
        more = f"; --checkpoint {other} is another one" if store.pointer(other) != tag else ""
        raise InputError(f"{error}{more}") from error
    model.eval()
    reader = Reader(unwrap(model), built.tokenizer)
    with float32_linears(model):
        before = trial_answers(reader)
    if options.adapter:
        write_adapter(model, Path(options.adapter), dtype)
    with float32_linears(model, folded=True):
        check_equal(before, trial_answers(reader), "the merged model")
    merged = merge(model)
    round_own(merged, dtype)
    rounded = answers_of(Reader(merged, built.tokenizer))
    round_own(merged, dtype)
    write_model(merged, built.tokenizer, folder)
    return rounded


@cli
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    options = config.parse(MergeOptions, argv, prog="merge_lora_weight.py")
    out = merge_run(options)
    print(f"merged model: {out} (python demo.py --pretrained_model_path {out})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
