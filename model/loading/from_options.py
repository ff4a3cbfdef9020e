"""Models as the command line describes them: where training, evaluation and demo stop being
configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peft import PeftModel

from model.inference.reader import Reader
from model.loading.builder import Built, build_for_training, load_read
from model.loading.lora import add_lora
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams
from utils.training.distributed import own_device


def load_from_options(options: Any) -> Reader:
    """Load the model that `utils.cli.options.ReaderOptions` name.

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
    config.sasp_params = replace(config.sasp_params, **options.sasp_settings())
    if options.conv_type is not None:
        config.conv_type = options.conv_type
    if options.compile:
        reader.compile()
    return reader


def build_model(options: Any) -> tuple[PeftModel | ReadForCausalLM, Built]:
    """Build the model that a training starts from.

    Args:
        options: `utils.cli.options.TrainOptions`.

    Returns:
        the model with LoRA in place, and the plain one inside with its tokenizer and report.

    Raises:
        InputError: see `build_for_training`.
    """
    built = build_for_training(
        options.version,
        vision_tower=options.vision_tower,
        vision_pretrained=options.vision_pretrained,
        sam=options.sam_settings(),
        sasp=SaspParams(**options.sasp_settings()),
        out_dim=options.out_dim,
        dtype=options.precision,
        model_max_length=options.model_max_length,
        train_mask_decoder=options.train_mask_decoder,
        use_released_param=options.use_released_param,
        use_mm_start_end=options.use_mm_start_end,
        attn_implementation=options.attn_implementation,
        conv_type=options.conv_type,
        gradient_checkpointing=options.gradient_checkpointing,
        load_in_4bit=options.load_in_4bit,
        load_in_8bit=options.load_in_8bit,
        ce_loss_weight=options.ce_loss_weight,
        bce_loss_weight=options.bce_loss_weight,
        dice_loss_weight=options.dice_loss_weight,
        max_loss_pixels=options.max_loss_pixels,
    )
    with_lora = add_lora(
        built.model,
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        target_modules=options.lora_target_modules,
    )
    return with_lora, built
