"""`test_read.py --ablate`: other settings in one pass are what evaluations of their own find."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import test_read
from dataset.reason_seg import ReasonSegEval
from model import SaspParams, load_read
from model.analysis.ablation import Ablation, grid
from model.loading.builder import save_model
from utils.evaluation.evaluator import evaluate, reader_predict
from utils.evaluation.predictions import read_run, shard_path

pytestmark = pytest.mark.slow

ABLATE = ["--ablate", "--ablate_points", "3,20"]


@pytest.fixture(scope="module")
def talking(micro_merged, micro_data, tmp_path_factory) -> Path:
    """The micro model; it says `[SEG]` to some questions and not to others."""
    reader = load_read(micro_merged)
    states = []
    head = reader.model.lm_head
    hook = head.register_forward_pre_hook(lambda _, given: states.append(given[0].detach()))
    item = ReasonSegEval(micro_data, "val", false_premises=True)[0]
    for question in item.questions:
        reader.segment(item.image, question.text, max_new_tokens=1)
    hook.remove()
    there, absent = (state.flatten(0, -2)[-1] for state in states)
    with torch.no_grad():
        between = there - absent
        most = (head.weight @ there).max()
        head.weight[reader.model.seg_token_id] = (most + 1) / (there @ between) * between
    folder = tmp_path_factory.mktemp("talking") / "merged"
    save_model(reader.model, reader.tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def run(talking, micro_data):
    """Runs `test_read.py`; returns the folder."""

    def start(folder: Path, *arguments: str) -> Path:
        flags = {
            "--pretrained_model_path": talking,
            "--dataset_dir": micro_data,
            "--vis_save_path": folder,
            "--eval_mode": "both",
            "--max_new_tokens": 1,
            "--batch_questions": 4,
        }
        given = [str(part) for pair in flags.items() for part in pair]
        assert test_read.main([*given, *arguments]) == 0
        return folder

    return start


@pytest.fixture(scope="module")
def ablated(run, tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("ablated"), *ABLATE)


def outcomes(result) -> list[tuple[bool, int, int]]:
    return [(r.present, r.intersection, r.union) for r in result.records]


def test_the_grid_holds_the_models_own_setting_once():
    own = SaspParams()
    settings = grid(own, [10, 30, 60])
    assert settings[0] == own and len(settings) == len(set(settings)) == 13
    assert sum(params.prompt == "text" for params in settings) == 1
    other = SaspParams(num_points=16, down_sample=1, t_pos=0.6)
    assert len(grid(other, [10, 30, 60])) == 17
    assert {(p.down_sample, p.t_pos) for p in grid(other, [10])} == {(1, 0.6)}
    assert grid(SaspParams(prompt="text"), [30])[0].prompt == "text"


@pytest.mark.slow
def test_every_setting_is_what_an_evaluation_of_its_own_finds(ablated, run, tmp_path):
    stored = read_run(ablated)
    assert len(stored.ablation) == 1 + 2 * 2 * 3 - 1  # own 30 points are one of the budgets
    seen = set()
    for number, params in enumerate(stored.ablation):
        flags = [f"--sasp_{name}={value}" for name, value in params.items()]
        alone = read_run(run(tmp_path / str(number), *flags, "--no_report")).results
        for mode, result in stored.results.items():
            varied = [tuple(record.sweep_outcomes[number]) for record in result.records]
            assert varied == outcomes(alone[mode]), params
            seen.add(tuple(varied))
    plain = read_run(run(tmp_path / "plain", "--no_report")).results
    assert {m: outcomes(r) for m, r in plain.items()} == {
        m: outcomes(r) for m, r in stored.results.items()
    }
    assert len(seen) > 6, "the settings make no difference: this test would not see a mistake"
    said = {record.present for record in stored.results["generated"].records}
    assert said == {True, False}


def test_tables_and_files(ablated, capsys):
    flags = ["--cmd", "metrics", "--vis_save_path", str(ablated)]
    for name in ("ablation.json", "ablation.csv", "ablation.html"):
        (ablated / name).unlink()
    assert test_read.main(flags) == 0
    out = capsys.readouterr().out
    assert "Ablation of SasP. Generated answers" in out and "* text + DtoC points" in out
    found = json.loads((ablated / "ablation.json").read_text())["modes"]
    run_file = json.loads((ablated / "run.json").read_text())
    metrics = json.loads((ablated / "metrics.json").read_text())
    for mode, settings in found.items():
        assert len(settings) == len(run_file["ablation"]) + 1
        (own,) = (one for one in settings if one["own"])
        assert own["sasp"] == run_file["sasp"] and own["minus_own"] == {}
        assert own["metrics"]["giou"]["value"] == metrics[mode]["objects"]["giou"]
        assert own["metrics"]["giou"]["interval"] == metrics[mode]["objects"]["intervals"]["giou"]
        assert own["metrics"]["segment"]["value"] == metrics[mode]["all"]["ciou"]
        for one in settings:
            low, high = one["metrics"]["giou"]["interval"]
            assert low <= one["metrics"]["giou"]["value"] <= high
            if not one["own"]:
                difference = one["metrics"]["giou"]["value"] - own["metrics"]["giou"]["value"]
                assert one["minus_own"]["giou"]["value"] == pytest.approx(difference)
    lines = list(csv.DictReader((ablated / "ablation.csv").read_text().splitlines()))
    assert len(lines) == sum(map(len, found.values()))
    assert [float(line["giou"]) for line in lines] == [
        one["metrics"]["giou"]["value"] for settings in found.values() for one in settings
    ]
    page = (ablated / "ablation.html").read_text("utf-8")
    assert page.count("class=own") == 2 and page.count("<svg") == 8


def test_the_language_model_and_sams_encoder_run_once(talking, micro_data):
    reader = load_read(talking)
    calls = {"llm": 0, "sam encoder": 0, "clip": 0, "decoder": 0}
    sam = reader.model.model.visual_model
    parts = {
        "llm": reader.model.model.layers[0].self_attn.q_proj,
        "sam encoder": sam.image_encoder,
        "clip": reader.model.model.vision_tower.clip,
        "decoder": sam.mask_decoder.transformer,
    }
    for name, part in parts.items():

        def count(*_, name=name):
            calls[name] += 1

        part.register_forward_pre_hook(count)
    items = ReasonSegEval(micro_data, "val")
    answer = "Sure, the segmentation result is [SEG]."
    evaluate(reader_predict(reader, answer, batch_questions=4), items, progress=False)
    plain, calls = dict(calls), dict.fromkeys(calls, 0)
    settings = grid(reader.model.config.sasp_params, [3, 20])
    predict = reader_predict(reader, answer, batch_questions=4, keep_states=True)
    sweep = Ablation(reader.model, settings[1:], questions_at_once=5)
    result = evaluate(predict, items, sweep=sweep, progress=False)
    assert all(len(record.sweep_outcomes) == len(settings) - 1 for record in result.records)
    assert plain["llm"] > 0 and plain["sam encoder"] == plain["clip"] == len(items)
    assert {k: v for k, v in calls.items() if k != "decoder"} == {
        k: v for k, v in plain.items() if k != "decoder"
    }
    # Prompts of one length go through the decoder together: text, 3 points, all 16 cells.
    assert calls["decoder"] == plain["decoder"] + 3


def test_a_run_that_was_cut_goes_on(ablated, run, tmp_path):
    folder = tmp_path / "cut"
    run(folder, *ABLATE)
    shard = shard_path(folder, 0, 1)
    whole = shard.read_bytes()
    assert whole == shard_path(ablated, 0, 1).read_bytes()
    shard.write_bytes(whole[: len(whole) * 2 // 3])
    for name in ("ablation.json", "metrics.json"):
        (folder / name).unlink()
    run(folder, *ABLATE)
    assert shard.read_bytes() == whole
    numbers = (folder / "ablation.json").read_text()
    assert numbers == (ablated / "ablation.json").read_text()


def test_an_ablation_is_not_mixed_with_another_one(ablated, talking, micro_data, capsys):
    flags = {"--pretrained_model_path": talking, "--dataset_dir": micro_data}
    flags |= {"--vis_save_path": ablated, "--eval_mode": "both", "--max_new_tokens": 1}
    given = [str(part) for pair in flags.items() for part in pair]
    for other in ([], ["--ablate", "--ablate_points", "5"]):
        assert test_read.main([*given, *other]) == 2
        message = capsys.readouterr().err
        assert "holds the predictions of another run (ablation: 12 settings there, " in message
        assert message.count("there") == 1
    with pytest.raises(SystemExit):
        test_read.main([*given, "--ablate", "--ablate_points", "ten,0"])
    assert "--ablate_points=ten,0" in capsys.readouterr().err


def test_two_processes_are_merged_to_the_numbers_of_one(ablated, run, tmp_path):
    folder = tmp_path / "shared"
    for process in ("1", "0"):
        run(folder, *ABLATE, "--world_size", "2", "--process_num", process)
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)]) == 0
    numbers = json.loads((folder / "ablation.json").read_text())
    assert numbers == json.loads((ablated / "ablation.json").read_text())


def test_several_masks_in_an_answer_and_pixels_that_do_not_count(talking, micro_data):
    """An answer's masks are joined, 255 is left out, and an answer may hold none."""
    reader = load_read(talking)
    items = [ReasonSegEval(micro_data, "val")[n] for n in range(3)]
    for item in items:
        item.questions[0].truth[:15] = 255
    settings = grid(reader.model.config.sasp_params, [3])
    for answer in ("It is [SEG] and [SEG].", "There is none."):
        predict = reader_predict(reader, answer, keep_states=True)
        sweep = Ablation(reader.model, settings[1:], questions_at_once=2)
        varied = evaluate(predict, items, sweep=sweep, progress=False)
        for number, params in enumerate(settings[1:]):
            other = load_read(talking)
            other.model.config.sasp_params = params
            alone = evaluate(reader_predict(other, answer), items, progress=False)
            assert [record.sweep_outcomes[number] for record in varied.records] == outcomes(alone)


def test_running_out_of_memory_halves_what_goes_together(talking, micro_data, monkeypatch):
    reader = load_read(talking)
    items = ReasonSegEval(micro_data, "val")
    settings = grid(reader.model.config.sasp_params, [3])
    predict = reader_predict(reader, "It is [SEG].", keep_states=True)
    whole = evaluate(
        predict, items, sweep=Ablation(reader.model, settings[1:]), progress=False
    ).records
    sam = reader.model.model.visual_model
    usual = sam.decode

    def small(embeddings, sparse):
        if len(sparse) > 6:
            raise torch.OutOfMemoryError("out of memory")
        return usual(embeddings, sparse)

    monkeypatch.setattr(sam, "decode", small)
    sweep = Ablation(reader.model, settings[1:])
    sweep.share = 32 / 32768
    found = evaluate(predict, items, sweep=sweep, progress=False).records
    assert [asdict(record) for record in found] == [asdict(record) for record in whole]
    assert sweep.share < 32 / 32768
