"""The training mixture that the `--dataset` flags name."""

from __future__ import annotations

from dataset.flag_checks import mixture
from dataset.loader import SampleSource
from dataset.mixture import Mixture
from dataset.own.sets import OwnTrain
from dataset.reason_seg import ReasonSegTrain
from dataset.refer.sets import ReferSegTrain
from dataset.sampling import SamplingOptions
from dataset.sem_seg.sampling import SemSegTrain
from dataset.templates import load_templates
from dataset.vqa import VqaTrain
from utils.cli.options import TrainOptions


def training_set(options: TrainOptions) -> SampleSource:
    """The data sets of `--dataset`, drawn at their rates.

    A name that is no family of the published mixture is a set of one's own, `NAME` or
    `NAME|SPLIT`, below `own/` in the data folder.

    Raises:
        InputError: data, templates or a specification are missing or wrong.
    """
    settings = SamplingOptions(
        num_classes_per_sample=options.num_classes_per_sample,
        templates=load_templates(options.templates),
        conv_type=options.conv_type,
        use_im_start_end=options.use_mm_start_end,
        seed=options.seed,
        part_masks=options.part_masks,
        premise_draw=options.premise_draw,
        class_names=options.class_names,
        polygon_fill=options.polygon_fill,
    )
    rates = {name: rate for name, rate in mixture(options).items() if rate > 0}
    parts = [(name, _part(name, options, settings)) for name in rates]
    return Mixture(parts, list(rates.values()), options.seed)


def _part(name: str, options: TrainOptions, settings: SamplingOptions) -> SampleSource:
    folder = options.dataset_dir
    match name:
        case "sem_seg":
            return SemSegTrain(folder, options.sem_seg_data, settings)
        case "refer_seg":
            return ReferSegTrain(folder, options.refer_seg_data, settings)
        case "neg_refer_seg":
            return ReferSegTrain(folder, options.neg_refer_seg_data, settings)
        case "correct_refer_seg":
            return ReferSegTrain(folder, options.correct_refer_seg_data, settings)
        case "vqa":
            return VqaTrain(folder, options.vqa_data, settings)
        case "reason_seg":
            return ReasonSegTrain(folder, options.reason_seg_data, settings)
    own, _, split = name.partition("|")
    return OwnTrain(folder, own, settings, split or "train")
