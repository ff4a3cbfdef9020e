"""Every flag of every entry point: one dataclass each.

Names are those of the original where it has the flag; `docs/flags.md` lists where its defaults
differ. What was published for a model stands in its preset. `problems()` holds the checks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dataset import flag_checks
from dataset.flag_checks import Selection
from utils.cli import checks
from utils.cli.analysis_flags import AnalysisFlags, AnalyzedFlags, MapFlags, layer_problems
from utils.cli.parser import Problem
from utils.cli.reader_flags import (
    EvaluationFlags,
    ImageFlags,
    MergeFlags,
    OriginalMergeFlags,
    PredictionFlags,
    ProcessFlags,
    QuestionFlags,
    QuestionSetFlags,
    ReaderFlags,
    SaspOverrides,
    UploadFlags,
    WebFlags,
)
from utils.cli.train_flags import (
    DataFlags,
    ModelFlags,
    OptimisationFlags,
    RunFlags,
    SaspFlags,
    TrainedPartsFlags,
)
from utils.protocol.constants import IMAGE_ROOM

TEMPLATE_SETS = ("varied", "simple")
SASP_FIELDS = {
    "num_points": "sasp_num_points",
    "t_pos": "sasp_t_pos",
    "t_neg": "sasp_t_neg",
    "down_sample": "sasp_down_sample",
    "thresholds": "sasp_thresholds",
    "std_factor": "sasp_std_factor",
    "prompt": "sasp_prompt",
}
"""Field of `model.SaspParams` -> flag."""


class SaspSettings:
    """What options with `sasp_*` flags can do."""

    def sasp_settings(self) -> dict[str, Any]:
        """Arguments of `model.SaspParams`; flags that were left at None are not in it."""
        given = {key: getattr(self, name) for key, name in SASP_FIELDS.items()}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class StartOptions(ModelFlags, TrainedPartsFlags, SaspFlags, SaspSettings):
    """Flags of everything that builds the model that a training starts from."""

    def sam_settings(self) -> str | dict[str, Any]:
        """The `sam` argument of the builder."""
        if isinstance(self.sam, dict):
            return {"image_size": self.image_size, **self.sam}
        return self.sam

    def _model_problems(self) -> list[Problem]:
        problems = checks.model_folder("version", self.version, "a model in the released layout")
        problems += checks.model_folder("vision_tower", self.vision_tower, "a CLIP model")
        problems += checks.sam(self.sam, self.image_size) + checks.quantization(self)
        problems += checks.attention(self)
        if self.vision_pretrained is not None:
            hint = "download sam_vit_h_4b8939.pth, or give the path of your copy"
            problems += checks.file(
                "vision_pretrained", self.vision_pretrained, "SAM weights", hint
            )
        elif not self.use_released_param:
            problems.append(
                Problem("--no_use_released_param needs --vision_pretrained, SAM's .pth file")
            )
        elif (config := checks.model_config(self.version)) and "train_mask_decoder" not in config:
            problems.append(
                Problem(
                    f"--version={self.version} is a LLaVA without SAM weights; "
                    "give --vision_pretrained, SAM's .pth file"
                )
            )
        if self.model_max_length <= IMAGE_ROOM:
            flag = f"--model_max_length={self.model_max_length}"
            problems.append(
                Problem(f"{flag}: the image counts as {IMAGE_ROOM} tokens; give more, such as 512")
            )
        if self.lora_r and not self.lora_target_modules.strip(" ,"):
            problems.append(Problem("--lora_target_modules is empty; name layers, or --lora_r=0"))
        return problems


@dataclass(frozen=True)
class TrainOptions(StartOptions, DataFlags, OptimisationFlags, RunFlags):
    """Train READ."""

    @property
    def run_dir(self) -> Path:
        """Where everything about this run is written."""
        return Path(self.log_base_dir) / self.exp_name

    @property
    def total_steps(self) -> int:
        """Optimiser steps from the first to the last."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def mixture(self) -> dict[str, float]:
        """Data set -> how often it is drawn."""
        names = self.dataset.split("||")
        if self.sample_rates is None:
            return {name: float(flag_checks.TRAINING_SETS.get(name, 1)) for name in names}
        rates = [float(rate) for rate in self.sample_rates.split(",")]
        return dict(zip(names, rates, strict=True))

    def validation(self) -> Selection:
        """Data set and split of the validation."""
        return flag_checks.selection(self.val_dataset, self.val_split)

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        problems = self._model_problems() + checks.sasp(self) + self._data_problems()
        problems += checks.positive(
            self,
            "epochs",
            "steps_per_epoch",
            "max_steps",
            "batch_size",
            "lr",
            "print_freq",
            "keep_checkpoints",
            "grad_accumulation_steps",
            "num_classes_per_sample",
            "out_dim",
            "lora_alpha",
        )
        problems += checks.at_least_zero(
            self,
            "workers",
            "warmup_steps",
            "lora_r",
            "save_every",
            "start_epoch",
            "seed",
            "ce_loss_weight",
            "dice_loss_weight",
            "bce_loss_weight",
            "max_loss_pixels",
            "sasp_std_factor",
        )
        problems += checks.below_one(self, "lora_dropout", "beta1", "beta2")
        problems += self._run_problems()
        return problems

    def _data_problems(self) -> list[Problem]:
        problems = flag_checks.data_folder(self)
        problems += [] if self.eval_only else flag_checks.training(self)
        problems += checks.template_file(self.templates, TEMPLATE_SETS)
        return problems + ([] if self.no_eval else flag_checks.evaluation(self))

    def _run_problems(self) -> list[Problem]:
        problems = []
        if self.eval_only and self.no_eval:
            problems.append(Problem("--eval_only and --no_eval exclude each other; give one"))
        if not self.exp_name or os.path.basename(self.exp_name) != self.exp_name:
            problems.append(Problem(f"--exp_name={self.exp_name!r}: give a name, not a path"))
        if self.start_epoch >= self.epochs:
            problems.append(
                Problem(f"--start_epoch={self.start_epoch} leaves none of --epochs={self.epochs}")
            )
        if self.zero_stage == 3 and (self.load_in_4bit or self.load_in_8bit):
            problems.append(
                Problem(
                    "--zero_stage=3 cannot spread quantised weights over the ranks; give "
                    "--zero_stage=2 with --load_in_4bit and --load_in_8bit"
                )
            )
        if self.resume is not None:
            problems += checks.folder(
                "resume", self.resume, "a run's ckpt_model folder", "give RUN/ckpt_model"
            )
        return problems + (checks.package("wandb", "use_wandb") if self.use_wandb else [])


@dataclass(frozen=True)
class ReaderOptions(ReaderFlags, SaspOverrides, SaspSettings):
    """Flags of everything that loads a trained model."""

    def sam_settings(self) -> str | dict[str, Any] | None:
        """The `sam` argument of `load_read`; None: what the model stores."""
        if isinstance(self.sam, dict) and self.image_size is not None:
            return {"image_size": self.image_size, **self.sam}
        return self.sam

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        path, tower = self.pretrained_model_path, self.vision_tower
        problems = checks.model_folder("pretrained_model_path", path, "a merged model")
        if tower is not None:
            problems += checks.model_folder("vision_tower", tower, "a CLIP model")
        problems += checks.sam(self.sam, self.image_size) if self.sam or self.image_size else []
        problems += checks.quantization(self) + checks.attention(self) + checks.sasp(self)
        problems += checks.positive(self, "max_new_tokens", "model_max_length")
        return problems + checks.at_least_zero(self, "local_rank", "sasp_std_factor")


@dataclass(frozen=True)
class TestOptions(ReaderOptions, QuestionSetFlags, EvaluationFlags, ProcessFlags, PredictionFlags):
    """Evaluate READ: write predictions, or compute the metrics of written ones."""

    __test__ = False  # its name looks like a test to pytest

    def validation(self) -> Selection:
        """Data set and split of the evaluation."""
        return flag_checks.selection(self.val_dataset, self.val_split)

    def budgets(self) -> list[int]:
        """Numbers of points of the ablation.

        Raises:
            ValueError: `ablate_points` holds something else.
        """
        counts = [int(part) for part in self.ablate_points.split(",")]
        if min(counts) < 1:
            raise ValueError(f"{min(counts)} points")
        return counts

    def _ablation_problems(self) -> list[Problem]:
        try:
            self.budgets()
        except ValueError:
            hint = "give whole numbers from 1 on with commas between them, such as 10,30,60"
            return [Problem(f"--ablate_points={self.ablate_points}: {hint}")]
        return []

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        if self.cmd == "metrics":
            hint = "run --cmd inference first, or give the folder that holds them"
            return checks.folder("vis_save_path", self.vis_save_path, "predictions", hint)
        problems = super().problems() + flag_checks.data_folder(self)
        problems += flag_checks.evaluation(self)
        problems += checks.template_file(self.templates, TEMPLATE_SETS)
        problems += checks.positive(self, "batch_questions", "world_size")
        problems += self._ablation_problems()
        if not 0 <= self.process_num < max(self.world_size, 1):
            problems.append(
                Problem(
                    f"--process_num={self.process_num}: give 0 to {self.world_size - 1}, "
                    "below --world_size"
                )
            )
        return problems


@dataclass(frozen=True)
class AnalyzeOptions(ReaderOptions, QuestionSetFlags, AnalyzedFlags, MapFlags, AnalysisFlags):
    """See how [SEG] works: similarity maps, points and masks of every question, with scores."""

    def validation(self) -> Selection:
        """Data set and split whose questions are asked."""
        return flag_checks.selection(self.val_dataset, self.val_split)

    @property
    def model_paths(self) -> dict[str, str]:
        """Name of each model -> its folder or hub id.

        The name is the last part of the path; of `RUN/merged`, it is that of the run.
        """
        paths = self.models or [self.pretrained_model_path]
        return {model_name(path): path for path in paths}

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        if self.cmd == "dashboard":
            hint = "run --cmd analyze first, or give the folder that it wrote"
            return checks.folder("out", self.out, "an analysis", hint)
        problems = []
        if self.images is not None:
            hint = "give a folder with questions.jsonl, or with NAME.txt beside NAME.jpg"
            problems += checks.folder("images", self.images, "images with questions", hint)
        else:
            problems += flag_checks.data_folder(self) + flag_checks.evaluation(self)
            problems += checks.template_file(self.templates, TEMPLATE_SETS)
        if self.models is not None and len(self.model_paths) < len(self.models):
            problems.append(
                Problem(
                    f"--models={','.join(self.models)}: several are called "
                    f"{' or '.join(self.model_paths)}; rename a folder, so that each has a name"
                )
            )
        for name, path in self.model_paths.items():
            one = replace(self, pretrained_model_path=path)
            problems += [p for p in ReaderOptions.problems(one) if p not in problems]
            last = checks.model_config(path).get("num_hidden_layers")
            problems += layer_problems(self.layers, last, name)
        if self.vision_pretrained is not None:
            hint = "give the .pth file that training started from"
            problems += checks.file(
                "vision_pretrained", self.vision_pretrained, "SAM weights", hint
            )
        return problems + checks.positive(self, "batch_questions", "max_questions")


def model_name(path: str) -> str:
    """What a model is called: the last part of its path; of `RUN/merged`, the run."""
    parts = [part for part in os.path.abspath(path).split(os.sep) if part]
    named = parts[:-1] if len(parts) > 1 and parts[-1] == "merged" else parts
    return named[-1]


@dataclass(frozen=True)
class DemoOptions(ReaderOptions, QuestionFlags, ImageFlags, WebFlags):
    """Ask READ about an image: a chat in the terminal, one question, or a page."""

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        problems = super().problems()
        if self.prompt is not None and self.image is None:
            problems.append(Problem("--prompt needs --image: the image to ask about"))
        if self.image is not None and "://" not in self.image:
            hint = "give the path or URL of an image"
            problems += checks.file("image", self.image, "an image", hint)
        return problems + (checks.web(self) if self.web else [])


@dataclass(frozen=True)
class MergeOptions(MergeFlags, UploadFlags):
    """Merge a training run into a model folder."""

    @property
    def folder(self) -> Path:
        """Where the merged model is written."""
        return Path(self.out) if self.out is not None else Path(self.exp_dir) / "merged"

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        problems = checks.folder("exp_dir", self.exp_dir, "a run folder", "give LOG_DIR/EXP_NAME")
        if not problems and not (Path(self.exp_dir) / "config.yaml").is_file():
            problems.append(
                Problem(
                    f"--exp_dir={self.exp_dir}: holds no config.yaml; expected a run folder "
                    "written by train_read.py",
                    missing=True,
                )
            )
        if self.folder.exists() and not (self.folder / "config.json").is_file():
            problems.append(
                Problem(f"--out={self.folder}: exists and is no merged model; give a new folder")
            )
        if self.adapter and Path(self.adapter).exists():
            problems.append(Problem(f"--adapter={self.adapter}: exists; give a new folder"))
        return problems + checks.upload(self)


@dataclass(frozen=True)
class OriginalMergeOptions(StartOptions, OriginalMergeFlags, UploadFlags):
    """Merge trained weights in one file, as zero_to_fp32.py writes it, into a model folder."""

    def trained(self) -> TrainOptions:
        """The training that these weights come from, as far as the model depends on it."""
        names = {item.name for item in fields(StartOptions)}
        return TrainOptions(**{name: getattr(self, name) for name in names})

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        problems = self._model_problems() + checks.sasp(self)
        problems += checks.positive(self, "out_dim", "lora_alpha")
        problems += checks.at_least_zero(self, "lora_r", "sasp_std_factor")
        problems += checks.below_one(self, "lora_dropout")
        if self.load_in_4bit or self.load_in_8bit:
            problems.append(
                Problem("--load_in_4bit, --load_in_8bit: whole weights are merged; leave both out")
            )
        if not self.weight or not os.path.exists(self.weight):
            problems.append(
                Problem(
                    f"--weight={self.weight}: does not exist; expected the pytorch_model.bin that "
                    "zero_to_fp32.py makes of a checkpoint folder, or its folder of several files; "
                    "for a run folder of this project: bash merge_lora_weight.sh EXP_DIR",
                    missing=True,
                )
            )
        if Path(self.save_path).exists() and not (Path(self.save_path) / "config.json").is_file():
            problems.append(Problem(f"--save_path={self.save_path}: exists and is no merged model"))
        return problems + checks.upload(self)
