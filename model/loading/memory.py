"""How much GPU memory a training needs: `python -m utils.memory CONFIG [--gpus N ...]`.

Nothing is loaded; everything follows from the sizes of the model. Per GPU, with W bytes a weight
(2 in bf16 and fp16, 4 in fp32), P parameters in all, T trained ones, N GPUs:

    weights      W * P; ZeRO-3: / N, and W for each parameter that is gathered at a time, of which
                 DeepSpeed keeps up to 1e9
    gradients    4 * T, the sums over the micro steps that every rank keeps in float32,
                 + 2 * W * T, handed over and reduced; the reduced half with ZeRO-2: / N.
                 ZeRO-3: W * T, those of one micro step, + 8 * T / N, the reduced sums in float32
                 and the optimiser's copy of them
    optimiser    AdamW's two moments, and a float32 copy of T if W is 2: 8 * T or 12 * T; / N
    activations  see `activations`: they depend on the batch, not on N

With ZeRO-3 a validation gathers all weights, W * P on every GPU, and keeps few activations.
CUDA's own context and the allocator's gaps come on top: leave about 3 GB, or 10 %. Without
`--vision_tower` or `--version` on this machine their sizes follow from the name.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from model.loading import model_sizes
from utils.cli.entry_point import cli
from utils.cli.options import TrainOptions
from utils.cli.parser import load
from utils.errors import InputError
from utils.protocol.constants import IMAGE_POSITIONS

STAGES = (1, 2, 3)
GPU_COUNTS = (1, 2, 4, 8)
GIB = 1024**3
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTISED_OVERHEAD = 1.06
"""Bytes of a 4 or 8 bit weight with its scales, over the bits themselves."""
MOST_GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 holds gathered at most (stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Part:
    """One part of the model.

    Args:
        name: as told in the table.
        parameters: how many it has.
        trained: how many of them train.
        bytes_each: of a weight, or None: the precision of the run.
    """

    name: str
    parameters: int
    trained: int = 0
    bytes_each: float | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations


@dataclass(frozen=True)
class Sizes:
    """The three models that a configuration names."""

    llm: model_sizes.LlmSizes
    clip: model_sizes.ClipSizes
    sam: model_sizes.SamSizes


def sizes_of(options: TrainOptions) -> Sizes:
    """Sizes of the models that `options` name.

    Raises:
        InputError: a model is not on this machine and its name does not tell its size.
    """
    return Sizes(
        model_sizes.llm_sizes(options.version),
        model_sizes.clip_sizes(options.vision_tower),
        model_sizes.sam_sizes(options.sam_settings()),
    )


def parts(options: TrainOptions, sizes: Sizes) -> list[Part]:
    """All parts with their parameters; what trains is what `train_read.py` trains."""
    llm, sam = sizes.llm, sizes.sam
    layers = model_sizes.count_llm_layers(llm)
    table = llm.vocabulary * llm.hidden_size
    lora = model_sizes.count_lora(llm, options.lora_r, options.lora_target_modules)
    projection = model_sizes.count_projection(llm, options.out_dim)
    decoder = model_sizes.count_mask_decoder(sam)
    bits = 4 if options.load_in_4bit else 8 if options.load_in_8bit else None
    quantised = None if bits is None else bits / 8 * QUANTISED_OVERHEAD
    return [
        Part("LLM layers", layers, 0, quantised),
        Part("LoRA", lora, lora),
        Part("embed_tokens", table, table),
        Part("lm_head", table, table),
        Part("projector", model_sizes.count_projector(sizes.clip, llm)),
        Part("CLIP", model_sizes.count_clip(sizes.clip)),
        Part("SAM image encoder", model_sizes.count_sam_encoder(sam)),
        Part("SAM prompt encoder", model_sizes.count_prompt_encoder(sam)),
        Part("SAM mask decoder", decoder, decoder if options.train_mask_decoder else 0),
        Part("text_hidden_fcs", projection, projection),
    ]


def row_length(options: TrainOptions, sizes: Sizes) -> int:
    """Positions of an image with the longest texts: its own V, and each expression's text."""
    text = options.model_max_length - IMAGE_POSITIONS
    return sizes.clip.patches + options.num_classes_per_sample * text


def activations(options: TrainOptions, sizes: Sizes) -> float:
    """Bytes that the forward pass keeps or needs at its widest point, at the longest texts.

    B = batch_size rows of S = V + E * (model_max_length - 255) positions for E =
    num_classes_per_sample expressions, which share their image; W bytes a number. One layer
    keeps, a position, 8 D + 4 F numbers and 2 D float32 ones of its norms, (with
    `--attn_implementation eager` also 2 * heads * S attention weights, and S float32 ones).
    * With gradient checkpointing: the input of every layer, L * B * S * D * W, and one layer
      opened up; without: L layers opened up.
    * Logits, of text alone: B * (S - V) * vocabulary in W, in float32, and their gradient.
    * SAM's encoder, without gradients: one global attention of the batch (scores and softmax,
      heads * (h * w)^2) and its MLP. Masks: 4 float32 maps of the SAM frame for each expression.
    The larger of LLM and SAM's encoder counts, since the encoder is over when the LLM begins.
    """
    width = WIDTHS[options.precision]
    llm, sam = sizes.llm, sizes.sam
    length = row_length(options, sizes)
    tokens = options.batch_size * length
    per_token = width * (8 * llm.hidden_size + 4 * llm.intermediate_size) + 8 * llm.hidden_size
    if options.attn_implementation == "eager":
        per_token += (2 * width + 4) * llm.heads * length
    kept = llm.layers * tokens * per_token
    if options.gradient_checkpointing:
        kept = llm.layers * tokens * llm.hidden_size * width + tokens * per_token
    text = options.batch_size * (length - sizes.clip.patches)
    logits = text * llm.vocabulary * (width + 4 + 4)
    cells = sam.cells**2
    scores = 2 * sam.num_heads * cells**2 if sam.global_attn_indexes else 0
    encoder = options.batch_size * width * (scores + 9 * sam.embed_dim * cells)
    masks = options.batch_size * options.num_classes_per_sample * 4 * 4 * sam.image_size**2
    return max(kept + logits, encoder) + masks


def memory(options: TrainOptions, stage: int, gpus: int, sizes: Sizes | None = None) -> Memory:
    """What each of `gpus` GPUs needs with a ZeRO stage; the formulas stand above.

    Raises:
        InputError: the size of a model is unknown.
    """
    sizes = sizes or sizes_of(options)
    found = parts(options, sizes)
    width = WIDTHS[options.precision]
    weights = sum(part.parameters * (part.bytes_each or width) for part in found)
    trained = sum(part.trained for part in found)
    if stage == 3:
        everything = sum(part.parameters for part in found)
        gathered = min(MOST_GATHERED, everything) * weights / everything
        weights = weights / gpus + gathered * (1 - 1 / gpus)
    gradients = (4 + width) * trained + width * trained / (gpus if stage == 2 else 1)
    if stage == 3:
        gradients = width * trained + 8 * trained / gpus
    return Memory(
        weights=weights,
        gradients=gradients,
        optimiser=trained * (8 if width == 4 else 12) / gpus,
        activations=activations(options, sizes),
    )


def table_of_parts(found: list[Part]) -> str:
    """One line a part: parameters and how many of them train."""
    total = Part("together", sum(p.parameters for p in found), sum(p.trained for p in found))
    lines = [f"{'part':<20}{'parameters':>16}{'trained':>16}"]
    for part in [*found, total]:
        if part is total:
            lines.append("-" * 52)
        trained = f"{part.trained:,}" if part.trained else "-"
        lines.append(f"{part.name:<20}{part.parameters:>16,}{trained:>16}")
    return "\n".join(lines)


def table_of_memory(options: TrainOptions, counts: list[int], sizes: Sizes) -> str:
    """One line for each ZeRO stage and number of GPUs, in GiB; `*` marks the stage of the run."""
    names = ("weights", "gradients", "optimiser", "activations", "total")
    lines = [f"{'ZeRO':>5}{'GPUs':>6}" + "".join(f"{name:>13}" for name in names)]
    for stage in STAGES:
        for count in counts:
            need = memory(options, stage, count, sizes)
            mark = "*" if stage == options.zero_stage else " "
            values = "".join(f"{getattr(need, name) / GIB:>13.2f}" for name in names)
            lines.append(f"{stage:>4}{mark}{count:>6}{values}")
    return "\n".join(lines)


def describe(options: TrainOptions, counts: list[int]) -> str:
    """Both tables and what they assume.

    Raises:
        InputError: the size of a model is unknown.
    """
    sizes = sizes_of(options)
    whole = memory(options, 1, 1, sizes).weights / GIB
    checkpointing = "with" if options.gradient_checkpointing else "without"
    return "\n".join(
        [
            f"{options.version}, {options.precision}",
            "",
            table_of_parts(parts(options, sizes)),
            "",
            f"GiB on each GPU, {options.batch_size} images with {options.num_classes_per_sample} "
            f"expressions (rows of at most {row_length(options, sizes)} tokens), {checkpointing} "
            "gradient checkpointing:",
            "",
            table_of_memory(options, counts, sizes),
            "",
            "* the run's own --zero_stage. Computed, not measured: leave 10 % for CUDA and gaps.",
            f"With ZeRO-3 a validation gathers all weights, {whole:.2f} GiB, on each GPU; "
            "--no_eval needs no room for that.",
        ]
    )


@cli
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.memory", description="Memory that a training needs, computed."
    )
    parser.add_argument("config", help="a preset of configs/, or config.yaml of a run")
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=list(GPU_COUNTS), help="numbers of GPUs"
    )
    given = parser.parse_args(argv)
    if min(given.gpus) < 1:
        raise InputError(f"--gpus {min(given.gpus)}: give 1 or more")
    options = load(TrainOptions, given.config)
    print(describe(options, given.gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
