"""The flags of training, by group. `utils.cli.options.TrainOptions` joins and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataset import flag_checks
from utils.cli.flags import option
from utils.protocol.constants import IMAGE_ROOM
from utils.protocol.conversation import CONVERSATION_TYPES
from utils.protocol.sasp_params import SASP_PROMPTS, SaspParams


@dataclass(frozen=True)
class ModelFlags:
    """Model."""

    version: str = option(
        "tsunghanwu/SESAME",
        "model to start from: a folder or hub id in the released layout (SESAME, READ) or "
        "LLaVA-1.5",
        path=True,
    )
    vision_tower: str = option(
        "openai/clip-vit-large-patch14-336", "CLIP folder or hub id", path=True
    )
    vision_pretrained: str | None = option(
        None,
        "SAM weights (.pth); needed when --version holds none, or with --no_use_released_param",
        path=True,
    )
    use_released_param: bool = option(
        True,
        "take the SAM and projection weights that --version holds; off: SAM from "
        "--vision_pretrained, a fresh projection",
    )
    sam: str | dict = option(
        "vit_h",
        "SAM's image encoder: vit_h, vit_l, vit_b or a mapping {embed_dim, depth, num_heads, "
        "global_attn_indexes, image_size, prompt_dim}",
    )
    image_size: int = option(1024, "side of SAM's input in pixels")
    model_max_length: int = option(
        512, f"longest text in tokens, the image counted as {IMAGE_ROOM}"
    )
    out_dim: int = option(256, "width of the text prompt for SAM")
    conv_type: str = option("llava_v1", "conversation format", choices=CONVERSATION_TYPES)
    use_mm_start_end: bool = option(True, "wrap the image in <im_start>, <im_end>")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "bf16", "number format on a GPU; a CPU computes in fp32"
    )
    load_in_4bit: bool = option(False, "load the frozen weights in 4 bits (GPU, bitsandbytes)")
    load_in_8bit: bool = option(False, "load the frozen weights in 8 bits (GPU, bitsandbytes)")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = option(
        None,
        "attention of the LLM; none: sdpa; where questions share an image in training, "
        "sdpa takes the place of flash_attention_2, which takes no mask",
    )


@dataclass(frozen=True)
class TrainedPartsFlags:
    """Trained parts."""

    lora_r: int = option(8, "rank of LoRA; 0: no LoRA")
    lora_alpha: int = option(16, "scale of LoRA")
    lora_dropout: float = option(0.05, "dropout inside LoRA")
    lora_target_modules: str = option(
        "q_proj,v_proj", "layers of the LLM that get LoRA, comma separated"
    )
    train_mask_decoder: bool = option(True, "train SAM's mask decoder")


@dataclass(frozen=True)
class SaspFlags:
    """Similarity as points."""

    sasp_num_points: int = option(SaspParams.num_points, "points per mask")
    sasp_t_pos: float = option(SaspParams.t_pos, "similarity from which a cell is positive")
    sasp_t_neg: float = option(SaspParams.t_neg, "similarity up to which a cell is negative")
    sasp_down_sample: int = option(
        SaspParams.down_sample, "the map is this much smaller than CLIP's grid"
    )
    sasp_thresholds: Literal["fixed", "std"] = option(
        SaspParams.thresholds, "fixed thresholds or mean +- std_factor * std"
    )
    sasp_std_factor: float = option(SaspParams.std_factor, "k of the std thresholds")
    sasp_prompt: str = option(
        SaspParams.prompt,
        "prompt for SAM: text only, text + discrete points, text + continuous points",
        choices=tuple(SASP_PROMPTS),
    )


@dataclass(frozen=True)
class DataFlags:
    """Data."""

    dataset: str = option("||".join(flag_checks.TRAINING_SETS), "data sets to mix, joined by ||")
    sample_rates: str | None = option(
        None,
        "how often each data set is drawn, comma separated; none: 10 for sem_seg and "
        "reason_seg, 1 for others",
    )
    sem_seg_data: str = option(
        "ade20k||cocostuff||pascal_part||paco_lvis||mapillary", "sources of sem_seg"
    )
    refer_seg_data: str = option("refclef||refcoco||refcoco+||refcocog", "sources of refer_seg")
    neg_refer_seg_data: str = option(
        "R-refcocog||R-refcoco||R-refcoco+", "sources of neg_refer_seg"
    )
    correct_refer_seg_data: str = option(
        "fprefcocog||fprefcoco||fprefcoco+", "sources of correct_refer_seg"
    )
    vqa_data: str = option("llava_instruct_150k", "source of vqa")
    reason_seg_data: str = option("ReasonSeg|train", "source of reason_seg: NAME|SPLIT")
    val_dataset: str = option("ReasonSeg|val", "data set for validation: NAME or NAME|SPLIT")
    val_split: str | None = option(None, "split for validation; wins over the one in --val_dataset")
    dataset_dir: str = option("./dataset_folder", "folder with all data sets", path=True)
    num_classes_per_sample: int = option(3, "most expressions drawn for an image")
    templates: str = option(
        "varied",
        "questions and answers of training and of its validation on a referring set: varied, "
        "simple or a file",
        path=True,
    )
    part_masks: Literal["annotation", "union"] = option(
        "annotation",
        "mask of a class in PACO-LVIS and PASCAL-Part: the annotation that was drawn, as in the "
        "original, or the union of all of its class in the image",
    )
    premise_draw: Literal["sample", "class"] = option(
        "sample",
        "whether sem_seg asks for what is there is drawn once a sample, as in the original, or "
        "for each of its classes",
    )
    class_names: Literal["original", "spaces"] = option(
        "original", "underscores in names of classes: kept, as in the original, or made spaces"
    )
    polygon_fill: Literal["4.11", "4.8"] = option(
        "4.11", "release of OpenCV whose border pixels ReasonSeg's true masks have, see docs"
    )
    workers: int = option(4, "processes that load images, per rank")
    seed: int = option(42, "the order of the data and all chance follow from it")


@dataclass(frozen=True)
class OptimisationFlags:
    """Optimisation."""

    epochs: int = option(10, "number of epochs")
    steps_per_epoch: int = option(500, "optimiser steps per epoch; validation follows each epoch")
    max_steps: int | None = option(None, "stop after this many steps in all")
    batch_size: int = option(2, "images per rank and micro step")
    grad_accumulation_steps: int = option(10, "micro steps per optimiser step")
    lr: float = option(3e-4, "highest learning rate")
    warmup_steps: int = option(100, "steps of linear warm-up")
    beta1: float = option(0.9, "AdamW's beta 1")
    beta2: float = option(0.95, "AdamW's beta 2")
    ce_loss_weight: float = option(1.0, "weight of the text loss")
    dice_loss_weight: float = option(0.5, "weight of the DICE loss")
    bce_loss_weight: float = option(2.0, "weight of the BCE loss")
    max_loss_pixels: int = option(
        0,
        "compute the mask losses of larger images in a size of at most so many pixels, such as "
        "500000, which saves time and memory; 0: in full size, as published",
    )
    gradient_checkpointing: bool = option(True, "recompute activations to save memory")
    zero_stage: int = option(
        2,
        "what DeepSpeed (ZeRO) spreads over the ranks: 1 the optimiser's state, 2 gradients too, "
        "3 weights too (more traffic, and validation gathers them all)",
        choices=(1, 2, 3),
    )
    start_epoch: int = option(0, "first epoch when nothing is resumed")


@dataclass(frozen=True)
class RunFlags:
    """Run."""

    log_base_dir: str = option("./runs", "folder of all runs")
    exp_name: str = option("read", "name of this run's folder")
    val_batch_size: int = option(1, "images per forward in validation", choices=(1,))
    no_eval: bool = option(False, "train without validation; the newest checkpoint counts as best")
    eval_only: bool = option(False, "validate the run's best checkpoint, or --version as it is")
    resume: str | None = option(
        None, "ckpt_model folder of a run to continue, or a checkpoint's folder in it", path=True
    )
    auto_resume: bool = option(True, "continue from this run's own newest checkpoint")
    save_every: int = option(0, "also save after this many steps; 0: after each epoch only")
    keep_checkpoints: int = option(1, "newest checkpoints to keep; the best one is kept besides")
    print_freq: int = option(1, "steps between two lines of the log")
    use_wandb: bool = option(False, "log to Weights & Biases as well")
    local_rank: int = option(0, "set by the launcher")
