"""The flags of evaluation and demo, by group. `utils.cli.options` joins and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from utils.cli.flags import NOT_NEGATIVE, POSITIVE, option
from utils.cli.train_flags import (
    ATTENTIONS,
    IMAGE_COUNTS,
    POLYGON_FILL_HELP,
    PROMPT_HELP,
    THRESHOLDS_HELP,
)
from utils.protocol.constants import POLYGON_FILLS, PRECISIONS, PROMPTS
from utils.protocol.conversation import CONVERSATION_TYPES, MASK_REQUEST
from utils.protocol.generation import GenerationOptions
from utils.protocol.sasp_params import THRESHOLDS


@dataclass(frozen=True)
class ReaderFlags:
    """Model."""

    pretrained_model_path: str = option(
        "tsunghanwu/SESAME", "merged model: a folder or hub id", path=True
    )
    vision_tower: str | None = option(
        None, "CLIP folder or hub id; none: the one that the model names", path=True
    )
    sam: str | dict | None = option(
        None,
        "SAM's image encoder: vit_h, vit_l, vit_b or a mapping; none: what the model stores, "
        "else vit_h",
    )
    image_size: int | None = option(
        None, "side of SAM's input in pixels; none: what the model stores, else 1024"
    )
    model_max_length: int = option(512, IMAGE_COUNTS, limit=POSITIVE)
    conv_type: str | None = option(
        None, "conversation format; none: what the checkpoint stores", choices=CONVERSATION_TYPES
    )
    precision: str = option(
        "auto",
        "number format; auto: bf16 on a GPU, fp32 on a CPU",
        choices=("auto", *PRECISIONS),
    )
    attn_implementation: str | None = option(
        None,
        "attention of the language model over the part of a prompt that questions share",
        choices=ATTENTIONS,
    )
    compile: bool = option(
        False, "compile SAM's encoder and the MLPs first: minutes, for thousands of questions"
    )
    load_in_4bit: bool = option(False, "load in 4 bits (GPU, bitsandbytes)")
    load_in_8bit: bool = option(False, "load in 8 bits (GPU, bitsandbytes)")
    max_new_tokens: int = option(
        GenerationOptions.max_new_tokens, "longest generated answer", limit=POSITIVE
    )
    local_rank: int = option(
        0,
        "which GPU to use; launchers set it, and processes with --process_num take them in turn",
        limit=NOT_NEGATIVE,
    )

    def sam_settings(self) -> str | dict | None:
        """`--sam`, a mapping of sizes with the `--image_size` that it does not tell itself."""
        if isinstance(self.sam, dict) and self.image_size is not None:
            return {"image_size": self.image_size, **self.sam}
        return self.sam


@dataclass(frozen=True)
class SaspOverrides:
    """Similarity as points."""

    sasp_num_points: int | None = option(
        None, "points per mask; none: what the model stores", limit=POSITIVE
    )
    sasp_t_pos: float | None = option(None, "similarity from which a cell is positive")
    sasp_t_neg: float | None = option(None, "similarity up to which a cell is negative")
    sasp_down_sample: int | None = option(
        None, "the map is this much smaller than CLIP's grid", limit=POSITIVE
    )
    sasp_thresholds: str | None = option(None, THRESHOLDS_HELP, choices=THRESHOLDS)
    sasp_std_factor: float | None = option(None, "k of the std thresholds", limit=NOT_NEGATIVE)
    sasp_prompt: str | None = option(None, PROMPT_HELP, choices=tuple(PROMPTS))


@dataclass(frozen=True)
class QuestionSetFlags:
    """Questions."""

    val_dataset: str = option("ReasonSeg|val", "data set: NAME, NAME|SPLIT or NAME|SPLIT_BY|SPLIT")
    val_split: str | None = option(None, "split; wins over the one in --val_dataset")
    dataset_dir: str = option("./dataset_folder", "folder with all data sets", path=True)
    templates: str = option(
        "simple",
        "wording of questions, and of teacher-forced answers except ReasonSeg's: simple (fixed), "
        "varied or a file",
        path=True,
    )
    polygon_fill: str = option(POLYGON_FILLS[0], POLYGON_FILL_HELP, choices=POLYGON_FILLS)
    false_premises: bool = option(
        True, "also ask about objects that are not there (generated only)"
    )
    batch_questions: int = option(
        GenerationOptions.batch_questions,
        "questions, about any images, that are answered together; more take more memory",
        limit=POSITIVE,
    )


@dataclass(frozen=True)
class EvaluationFlags:
    """Evaluation."""

    cmd: Literal["inference", "metrics"] = option(
        "inference", "write predictions (and metrics), or metrics of written predictions"
    )
    eval_mode: Literal["teacher_forced", "generated", "both"] = option(
        "generated", "the answer is given, or the model generates it, or both"
    )
    ablate: bool = option(
        False, "also tell what other SasP settings would give: text, discrete points, DtoC"
    )
    ablate_points: str = option(
        "10,30,60", "numbers of points for --ablate; the model's own is always among them"
    )
    skip_broken: bool = option(False, "leave broken images out and list them, instead of stopping")


@dataclass(frozen=True)
class ProcessFlags:
    """Processes."""

    process_num: int = option(0, "number of this process")
    world_size: int = option(1, "number of processes that share the images", limit=POSITIVE)


@dataclass(frozen=True)
class PredictionFlags:
    """Output."""

    vis_save_path: str = option("./vis_output", "folder of the predictions")
    resume: bool = option(True, "go on after the predictions that are already written")
    report: bool = option(True, "write an HTML page with the metrics and images as well")


@dataclass(frozen=True)
class QuestionFlags:
    """Question."""

    image: str | None = option(
        None, "image to ask about: a path or URL; none: the chat asks for it", path=True
    )
    prompt: str | None = option(None, "question; with --image: answer it and leave")
    ask_for_mask: bool = option(
        False,
        f"end each question with '{MASK_REQUEST}', as the evaluation does; the page has a box for "
        "it instead, ticked at first",
    )
    force_seg: bool = option(False, "a mask even when the model answers without one")


@dataclass(frozen=True)
class ImageFlags:
    """Output."""

    vis_save_dir: str = option("./vis_output", "folder for masks, overlays and heat maps")
    output_format: Literal["png", "rle", "json"] = option(
        "png", "form of the mask: an image, COCO RLE, or JSON with text, points and RLE"
    )


@dataclass(frozen=True)
class WebFlags:
    """In the browser."""

    web: bool = option(
        False, "serve a page instead of a chat; needs gradio: pip install -r requirements-web.txt"
    )
    host: str = option("127.0.0.1", "interface to serve on; 0.0.0.0: every one of this machine")
    port: int = option(7860, "port to serve on; 0: a free one")
    web_names: list[str] | None = option(
        None, "further names that the page is reached by, such as that of a proxy in front of it"
    )
    max_megapixels: float = option(25.0, "largest image that a visitor may send", limit=POSITIVE)
    max_visitors: int = option(8, "visitors whose images are kept at a time", limit=POSITIVE)


@dataclass(frozen=True)
class MergeFlags:
    """Merging."""

    exp_dir: str = option("./runs/read", "run folder, with config.yaml and ckpt_model/", path=True)
    out: str | None = option(None, "folder to write; none: merged/ in the run folder")
    checkpoint: Literal["best", "latest"] = option("best", "which checkpoint to merge")
    adapter: str | None = option(
        None, "also write LoRA and the trained parts here, as a peft adapter folder"
    )


@dataclass(frozen=True)
class UploadFlags:
    """Uploading."""

    push_to_hub: str | None = option(
        None, "then upload the merged folder to this model repository of the hub, OWNER/NAME"
    )
    private: bool = option(False, "the repository is private")


@dataclass(frozen=True)
class OriginalMergeFlags:
    """Merging, as the original's script names it."""

    weight: str | None = option(
        None,
        "the trained weights: pytorch_model.bin of zero_to_fp32.py, or a folder of several files",
        path=True,
    )
    save_path: str = option("./read_model", "folder to write")
    vis_save_path: str = option("./vis_output", "taken for the original's sake; nothing uses it")
    local_rank: int = option(0, "taken for the original's sake; nothing uses it")
