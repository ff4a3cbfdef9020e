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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.catalog import hub_names, training_sources
from utils.cli import parser
from utils.cli.options import MergeOptions, TrainOptions
from utils.errors import InputError, cli
from utils.hub.model_card import CARD_FILE, Checkpoint, model_card, validation_of
from utils.hub.upload import upload_if_asked
from utils.process.run_lock import RunLock
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.training.checkpoint import BEST, CHECKPOINTS, LATEST, CheckpointStore, check_space
from utils.training.resumption import CONFIG_FILE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from huggingface_hub import ModelCard
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from model.inference.reader import Answer, Reader
    from model.read_model import ReadForCausalLM

QUESTION = "What is the bright square in this image? Please output segmentation mask."
MOST_NEW_TOKENS = 24
MOST_DIFFERING_PIXELS = 0.001


def trial_image() -> np.ndarray:
    """uint8[120, 160, 3]: a bright square on a gradient, the same every time."""
    import numpy as np

    ramp = np.linspace(0, 120, 160, dtype=np.uint8)
    image = np.repeat(np.tile(ramp, (120, 1))[..., None], 3, axis=2)
    image[30:80, 50:100] = (240, 220, 60)
    return image


def trial_answers(reader: Reader) -> list[Answer]:
    """A generated and a teacher-forced answer about the trial image."""
    image = reader.open(trial_image())
    return [
        reader.segment(image, QUESTION, max_new_tokens=MOST_NEW_TOKENS),
        reader.segment(image, QUESTION, answer=POSITIVE_ANSWER),
    ]


def check_equal(before: list[Answer], after: list[Answer], what: str) -> None:
    """The same tokens, and masks that differ in at most 0.1 % of the pixels.

    Raises:
        InputError: they differ; nothing that was merged should be used then.
    """
    for one, other in zip(before, after, strict=True):
        differing = float((one.mask != other.mask).mean())
        if one.token_ids != other.token_ids or differing > MOST_DIFFERING_PIXELS:
            raise InputError(
                f"{what} does not answer as the trained one: {one.text!r} became {other.text!r}, "
                f"{differing:.2%} of the mask's pixels differ; do not use it"
            )


def answers_of(reader: Reader) -> list[Answer]:
    """`trial_answers` in float32, from weights as they are stored."""
    from model.loading.upcast import float32_linears, upcast_small

    upcast_small(reader.model)
    with float32_linears(reader.model):
        return trial_answers(reader)


def round_own(model: ReadForCausalLM, dtype: torch.dtype) -> None:
    """Round weights in place, but for CLIP's, which are not stored; buffers keep every digit."""
    from model.read_model import TOWER_FOLDER

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
    from safetensors import SafetensorError

    from model.loading.builder import save_model

    try:
        save_model(model, tokenizer, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the merged model {folder} ({error}): free space on that disk, or give "
            "another --out"
        ) from error


def needed_bytes(
    folder: Path, adapter: Path | None, model: PeftModel | ReadForCausalLM, dtype: torch.dtype
) -> dict[Path, int]:
    """What is written -> its bytes: all weights but CLIP's in `dtype`, and CLIP's own files."""
    from model.loading.lora import unwrap
    from model.read_model import TOWER_FOLDER

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
        folder: sum(size.values())
        - sum(size[name] for name in lora)
        + sum(file.stat().st_size for file in files if file.is_file())
    }
    if adapter is not None:
        needed[adapter] = sum(size[name] for name in trained)
    return needed


def hold_folders(folder: Path, adapter: Path | None, held: ExitStack) -> None:
    """Keep other merges from the folders to write until `held` ends; they are replaced as a whole.

    Raises:
        InputError: another one is at work, or a folder cannot be written.
    """
    for flag, path in (("--out", folder), ("--adapter", adapter)):
        if path is not None:
            lock = Path(f"{path.absolute()}.lock")
            held.enter_context(RunLock(lock, f"the folder {path}", f"give another {flag}"))


def write_adapter(model: PeftModel | ReadForCausalLM, folder: Path, dtype: torch.dtype) -> None:
    """The adapter folder, whole or not at all; `load_read(VERSION, adapter=FOLDER)` applies it."""
    from model.loading.adapter import save_adapter

    with whole_folder(folder) as partial:
        save_adapter(model, partial, dtype)
    print(f"adapter: {folder}", flush=True)


def merge_run(options: MergeOptions) -> Path:
    """Merge the checkpoint that `options` names; returns the folder written.

    Raises:
        InputError: no run or checkpoint there, it does not fit its configuration, or the merged
            model answers differently.
    """
    from utils.training.engine import load_trained

    run_dir = Path(options.exp_dir)
    trained = parser.load(TrainOptions, run_dir / CONFIG_FILE)
    store = CheckpointStore(run_dir / CHECKPOINTS)
    state = store.load(options.checkpoint)
    if state is None:
        raise InputError(
            f"{store.folder} has no {options.checkpoint} checkpoint; train first, or see that "
            "the run got as far as its first validation"
        )
    tag = state.tag

    def load(model: Any) -> None:
        try:
            load_trained(model, store.folder, tag)
        except InputError as error:
            other = LATEST if options.checkpoint == BEST else BEST
            more = f"; --checkpoint {other} is another one" if store.pointer(other) != tag else ""
            raise InputError(f"{error}{more}") from error

    print(f"merging {store.folder / tag} ({options.checkpoint})", flush=True)
    best = tag == store.pointer(BEST)
    checkpoint = Checkpoint(state.step, best, validation_of(run_dir, state.step))
    sources = training_sources(trained)
    card = model_card(trained, options.push_to_hub, checkpoint, sources, hub_names(sources))
    adapter = Path(options.adapter) if options.adapter else None
    merge_into(options.folder, trained, load, card, adapter)
    return options.folder


def merge_into(
    folder: Path,
    trained: TrainOptions,
    load: Callable[[Any], object],
    card: ModelCard,
    adapter: Path | None = None,
) -> None:
    """Write the merged model of a training, once it has answered as the trained one did.

    Args:
        folder: to write; what is there is replaced.
        trained: how the model was built for its training.
        load: puts the trained weights into the model, LoRA in place.
        card: tells what was merged; written beside the weights.
        adapter: folder of a peft adapter to write as well.

    Raises:
        InputError: the weights do not fit, a folder cannot be written or another process writes to
            it, or the merged model answers differently.
    """
    from model.loading.builder import load_read

    with ExitStack() as held:
        hold_folders(folder, adapter, held)
        with whole_folder(folder) as partial:
            rounded = write_merged(partial, folder, trained, load, adapter)
            stored = load_read(partial, dtype=trained.precision, device="cpu")
            check_equal(rounded, answers_of(stored), f"the model loaded from {partial}")
            card.save(partial / CARD_FILE)


def write_merged(
    partial: Path,
    folder: Path,
    trained: TrainOptions,
    load: Callable[[Any], object],
    adapter: Path | None,
) -> list[Answer]:
    """Merge into `partial`, which becomes `folder`; returns what the rounded weights answer."""
    from model.inference.reader import Reader
    from model.loading.builder import DTYPES
    from model.loading.from_options import build_model
    from model.loading.lora import merge, unwrap
    from model.loading.upcast import float32_linears, upcast_small

    dtype = DTYPES[trained.precision]
    plain = dataclasses.replace(
        trained, load_in_4bit=False, load_in_8bit=False, attn_implementation=None
    )
    model, built = build_model(plain)
    needed = needed_bytes(folder, adapter, model, dtype)
    check_space(needed, "free space there, or give another folder")
    upcast_small(model)
    load(model)
    model.eval()
    reader = Reader(unwrap(model), built.tokenizer)
    with float32_linears(model):
        before = trial_answers(reader)
    if adapter is not None:
        write_adapter(model, adapter, dtype)
    with float32_linears(model, folded=True):
        check_equal(before, trial_answers(reader), "the merged model")
    merged = merge(model)
    round_own(merged, dtype)
    rounded = answers_of(Reader(merged, built.tokenizer))
    round_own(merged, dtype)
    write_model(merged, built.tokenizer, partial)
    return rounded


@cli(interrupted="no model was written; the same command starts afresh")
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    options = parser.parse(MergeOptions, argv, prog="merge_lora_weight.py")
    out = merge_run(options)
    print(f"merged model: {out} (python demo.py --pretrained_model_path {out})")
    return upload_if_asked(out, options)


if __name__ == "__main__":
    sys.exit(main())
