"""Teacher-forced answers on referring sets: drawn from the templates, and read by the model."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import analyze_read
import test_read
import train_read
from dataset.evaluation import evaluation_set
from dataset.import_templates import main as import_templates
from dataset.toy.world import write_world
from model import load_read
from utils.analysis.records import read_analysis
from utils.cli.options import TrainOptions, model_name
from utils.evaluation.predictions import shard_path
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn
from utils.protocol.tokenization import encode_prompt, load_tokenizer

pytestmark = pytest.mark.slow

SHORT_ANSWERS = ["The {class_name} is [SEG]."] * 3 + ["It is [SEG].", "[SEG] shows {class_name}."]
SOURCE = f"""
SHORT_QUESTION_TEMPLATE = [DEFAULT_IMAGE_TOKEN + "\\n" + "Where is {{class_name}}?"]
LONG_QUESTION_TEMPLATE = ["{{sent}} Mark it."]
SHORT_ANSWER_TEMPLATE = {[f"{n}: {text}" for n, text in enumerate(SHORT_ANSWERS)]!r}
LONG_ANSWER_TEMPLATE = ["Sure, long, [SEG]."]
NEG_ANSWER_TEMPLATE = ["None."]
CORRECT_ANSWER_TEMPLATE = ["No, {{gt_name}}."]
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A small world with all the sets."""
    root = tmp_path_factory.mktemp("toy")
    write_world(root, 24, 2)
    return root


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> Path:
    """A template file of the original, converted."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "qa_template.py").write_text(SOURCE)
    assert import_templates([str(folder / "qa_template.py"), str(folder / "out.json")]) == 0
    return folder / "out.json"


@pytest.fixture
def read_ids(monkeypatch) -> list[list[int]]:
    """Rows of token ids that any embedding is asked for, as they come."""
    rows: list[list[int]] = []
    plain = torch.nn.Embedding.forward

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows.extend(ids.reshape(-1, ids.shape[-1]).tolist())
        return plain(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", forward)
    return rows


def was_read(rows: list[list[int]], folder: Path, question: str, answer: str) -> bool:
    """Whether the prompt behind its image stands in a row, from first to last token."""
    ids = encode_prompt(build_prompt([(user_turn(question), answer)]), load_tokenizer(folder))
    told = " ".join(map(str, ids[ids.index(-200) + 2 : -1]))  # behind <im_end>, before </s>
    return any(f" {told} " in f" {' '.join(map(str, row))} " for row in rows)


def evaluate(toy: Path, folder: Path, out: Path, *flags: str) -> dict[tuple[int, int], dict]:
    given = ["--pretrained_model_path", folder, "--dataset_dir", toy, "--vis_save_path", out]
    mode = ["--eval_mode", "teacher_forced"]
    assert test_read.main([*map(str, given), *mode, *flags]) == 0
    lines = [
        json.loads(line)
        for path in out.glob("predictions_*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    ]
    return {(line["item"], line["number"]): line for line in lines}


def allowed(phrase: str) -> list[str]:
    return [
        f"{n}: {a}".replace("{class_name}", phrase.lower()) for n, a in enumerate(SHORT_ANSWERS)
    ]


def test_refcoco_answers_are_drawn_and_read(toy, templates, micro_merged, tmp_path, read_ids):
    flags = ["--val_dataset", "refcoco|val", "--templates", str(templates)]
    lines = evaluate(toy, micro_merged, tmp_path / "one", *flags)
    items = evaluation_set(str(toy), "refcoco", "val", templates=str(templates))
    asked = {(n, m): one for n, item in enumerate(items) for m, one in enumerate(item.questions)}
    assert lines.keys() == asked.keys() and len(lines) > 5
    for key, line in lines.items():
        assert line["answer"] in allowed(asked[key].phrase)
        assert was_read(read_ids, micro_merged, line["question"], line["answer"])
        assert not was_read(read_ids, micro_merged, line["question"], POSITIVE_ANSWER)
    assert len({line["answer"][0] for line in lines.values()}) >= 3  # of the five templates

    # Two processes draw what one did: a draw depends on the question alone.
    for number in ("1", "0"):
        both = evaluate(
            *(toy, micro_merged, tmp_path / "two", *flags),
            *("--process_num", number, "--world_size", "2"),
        )
    assert {key: line["answer"] for key, line in both.items()} == {
        key: line["answer"] for key, line in lines.items()
    }
    assert shard_path(tmp_path / "two", 1, 2).is_file()


def test_the_fixed_templates_give_the_fixed_answer(toy, micro_merged, tmp_path, read_ids):
    lines = evaluate(toy, micro_merged, tmp_path, "--val_dataset", "refcoco|val")
    assert {line["answer"] for line in lines.values()} == {POSITIVE_ANSWER}
    assert all(
        was_read(read_ids, micro_merged, line["question"], POSITIVE_ANSWER)
        for line in lines.values()
    )


def test_reason_seg_keeps_the_fixed_answer(toy, templates, micro_merged, tmp_path, read_ids):
    flags = ["--val_dataset", "ReasonSeg|val", "--templates", str(templates)]
    lines = evaluate(toy, micro_merged, tmp_path, *flags)
    assert {line["answer"] for line in lines.values()} == {POSITIVE_ANSWER}
    assert all(
        was_read(read_ids, micro_merged, line["question"], POSITIVE_ANSWER)
        for line in lines.values()
    )


def test_the_validation_of_training_draws_too(toy, templates, micro_merged, read_ids):
    options = TrainOptions(
        dataset_dir=str(toy), templates=str(templates), val_dataset="refcoco|val"
    )
    items = train_read.validation_items(options)
    drawn = evaluation_set(str(toy), "refcoco", "val", templates=str(templates))
    forced = [one.forced_answer for item in items for one in item.questions]
    assert forced == [one.forced_answer for item in drawn for one in item.questions]
    reader = load_read(micro_merged)
    process = SimpleNamespace(rank=0, world_size=1, all_gather=lambda own: [own])
    train_read.validation(
        items, reader.model, SimpleNamespace(tokenizer=reader.tokenizer), process
    )()
    for one in (one for item in items for one in item.questions):
        assert was_read(read_ids, micro_merged, one.text, one.forced_answer)

    reason = train_read.validation_items(replace(options, val_dataset="ReasonSeg|val"))
    questions = [one for item in reason for one in item.questions]
    assert not any(one.forced_answer for one in questions)
    assert all("Please output segmentation mask." in one.text for one in questions)


def test_an_analysis_draws_too(toy, templates, micro_merged, tmp_path, read_ids):
    given = {
        "pretrained_model_path": micro_merged,
        "dataset_dir": toy,
        "out": tmp_path / "out",
        "val_dataset": "refcoco|val",
        "templates": templates,
        "max_questions": 6,
    }
    assert analyze_read.main([f"--{name}={value}" for name, value in given.items()]) == 0
    found = list(read_analysis(tmp_path / "out" / model_name(str(micro_merged))))
    items = evaluation_set(str(toy), "refcoco", "val", templates=str(templates))
    asked = {(n, m): one for n, item in enumerate(items) for m, one in enumerate(item.questions)}
    assert len(found) == 6
    for one in found:
        assert one.answer == asked[one.key].forced_answer != POSITIVE_ANSWER
        assert was_read(read_ids, micro_merged, one.question, one.answer)
