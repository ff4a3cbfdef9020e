"""Models as the command line describes them: where training, evaluation and demo stop being
configuration."""

from __future__ import annotations

from dataclasses import replace

from peft import PeftModel

from model.inference.reader import Reader
from model.loading.builder import Built, build_for_training, load_read
from model.loading.lora import add_lora
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams
from utils.cli.options import ReaderOptions, given_sasp
from utils.cli.train_flags import LoraOptions, LossOptions, ModelOptions
from utils.training.distributed import own_device


def load_from_options(options: ReaderOptions) -> Reader:
    """Load the model that the options name.

    SasP flags that were not given keep what the checkpoint stores.

    Raises:
        InputError: the model cannot be loaded, or this rank has no GPU; the message says what is
            missing.
    """
    reader = load_read(
        options.pretrained_model_path,
        vision_tower=options.vision_tower,
        dtype=options.precision,
        device=own_device(options.local_rank, getattr(options, "process_num", 0)),
        sam=options.sam_settings(),
        load_in_4bit=options.load_in_4bit,
        load_in_8bit=options.load_in_8bit,
        attn_implementation=options.attn_implementation,
    )
    config = reader.model.config
    config.sasp_params = replace(config.sasp_params, **given_sasp(options))
    if options.conv_type is not None:
        config.conv_type = options.conv_type
    if options.compile:
        reader.compile()
    return reader


def build_model(
    start: ModelOptions,
    lora: LoraOptions,
    sasp: SaspParams,
    losses: LossOptions | None = None,
    gradient_checkpointing: bool = True,
) -> tuple[PeftModel | ReadForCausalLM, Built]:
    """Build the model that a training starts from.

    Args:
        start, lora, sasp, losses: groups of `utils.cli.options.TrainOptions`.
        gradient_checkpointing: see `build_for_training`.

    Returns:
        the model with LoRA in place, and the plain one inside with its tokenizer and report.

    Raises:
        InputError: see `build_for_training`.
    """
    built = build_for_training(start, sasp, losses, lora.train_mask_decoder, gradient_checkpointing)
    with_lora = add_lora(
        built.model,
        r=lora.lora_r,
        alpha=lora.lora_alpha,
        dropout=lora.lora_dropout,
        target_modules=lora.lora_target_modules,
    )
    return with_lora, built
