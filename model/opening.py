"""A reader as the command line describes it: where evaluation and demo stop being configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.builder import load_read
from model.reader import Reader
from utils.distributed import own_device


def open_reader(options: Any) -> Reader:
    """Load the model that `utils.options.ReaderOptions` name.

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
