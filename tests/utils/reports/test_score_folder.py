"""From stored predictions to `metrics.json` and the page."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import DESKTOP, PHONE
from tests.stored_runs import MODE, answers_to, make_items, write_ours
from utils.errors import InputError
from utils.evaluation.evaluator import EvalResult, Record
from utils.evaluation.group_scores import miss_of, score
from utils.evaluation.predictions import EvalRun, read_run, shard_path
from utils.reports.charts import count_bins, histogram
from utils.reports.evaluation_examples import choose, draw_case, embed_thumbnail
from utils.reports.evaluation_page import score_page, score_tables
from utils.reports.page import table_text
from utils.reports.score_folder import score_folder
from utils.reports.visualize import MASK_COLOUR, TRUTH_COLOUR


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("images"), 11)


def scored(folder: Path) -> dict:
    score_folder(folder)
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def make_record(item=0, there=True, present=True, both=5, either=10, kind="k", number=0):
    name = f"{item}.png"
    return Record(item, number, 1, name, "q", kind, "a", present, there, both, either)


def test_numbers_by_an_independent_count(items, tmp_path):
    write_ours(tmp_path, items)
    found = scored(tmp_path)[MODE]
    rows = []
    for item in items:
        for question, answer in zip(item.questions, answers_to(item), strict=True):
            pred = np.any([np.zeros_like(answer.mask), *(s.mask for s in answer.segments)], axis=0)
            pred, true = pred[question.truth != 255], question.truth[question.truth != 255]
            both, either = np.sum(pred & (true == 1)), np.sum(pred | (true == 1))
            rows.append((both, either, answer.mask.any(), question.exists, question.kind))
    for group, mine in {
        "all": rows,
        "objects": [row for row in rows if row[3]],
        "absent": [row for row in rows if row[4] == "absent"],
        "direct": [row for row in rows if row[4] == "direct"],
    }.items():
        told = found[group] if group in found else found["per_kind"][group]
        iou = [b / (e + 1e-5) if e else 1 for b, e, *_ in mine]
        assert told["questions"] == len(mine)
        assert told["giou"] == pytest.approx(np.mean(iou), abs=1e-12)
        area = sum(row[1] for row in mine)
        if group == "absent":
            assert told["ciou"] is None and told["intervals"]["ciou"] is None
        else:
            assert told["ciou"] == pytest.approx(sum(row[0] for row in mine) / (area + 1e-10))
        assert told["see_accuracy"] == pytest.approx(np.mean([row[2] == row[3] for row in mine]))
        see = {
            "there_said_there": sum(bool(row[3] and row[2]) for row in mine),
            "there_said_absent": sum(bool(row[3] and not row[2]) for row in mine),
            "absent_said_absent": sum(bool(not row[3] and not row[2]) for row in mine),
            "absent_said_there": sum(bool(not row[3] and row[2]) for row in mine),
        }
        assert told["see"] == see
        low = sum(bool(row[3] and row[2] and row[0] < 0.5 * row[1]) for row in mine)
        assert told["misses"] == {
            "said_absent": see["there_said_absent"],
            "segmented_absent": see["absent_said_there"],
            "low_iou": low,
        }
    assert found["segment"] == found["all"]["ciou"]
    assert found["bootstrap"] == {
        "unit": "image", "level": 0.95, "resamples": 1000, "seed": 0
    }  # fmt: skip
    for name in ("giou", "ciou", "see_accuracy", "absent_precision", "absent_recall"):
        low, high = found["all"]["intervals"][name]
        assert low <= found["all"][name] <= high


def test_any_number_of_processes_gives_the_same_files(items, tmp_path):
    texts = []
    for world in (1, 2, 3):
        folder = tmp_path / str(world)
        write_ours(folder, items, world, broken=[4, 7, 8])
        score_folder(folder)
        texts.append([(folder / name).read_bytes() for name in ("metrics.json", "report.html")])
    assert texts[0] == texts[1] == texts[2]
    found = json.loads(texts[0][0])[MODE]
    assert found["skipped"] == [f"image {n} <is> no image" for n in (4, 7, 8)]
    page = texts[0][1].decode()
    assert "3 broken" in page and "image 7 &lt;is&gt; no image" in page


def test_truth_is_kept_and_older_files_without_it_are_read(items, tmp_path):
    write_ours(tmp_path, items)
    run = read_run(tmp_path)
    for record in run.results[MODE].records:
        question = items[record.item].questions[record.number]
        answer = answers_to(items[record.item])[record.number]
        pred, truth = run.masks(MODE, record)
        assert np.array_equal(truth, question.truth) and np.array_equal(pred, answer.mask)
    found = scored(tmp_path)
    shard = shard_path(tmp_path, 0, 1)
    lines = [json.loads(line) for line in shard.read_text("utf-8").splitlines()]
    for line in lines:
        del line["truth"], line["ignored"]
    shard.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert scored(tmp_path) == found
    assert "the true mask was not kept" in (tmp_path / "report.html").read_text("utf-8")


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(folder: Path) -> tuple[str, Checker]:
    page = (folder / "report.html").read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and not {"script", "link", "iframe"} & set(checker.seen)
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert not re.search(r"https?:|url\(|@import", page)
    return page, checker


def test_the_page(items, tmp_path):
    write_ours(tmp_path, items)
    score_folder(tmp_path)
    page, checker = check_page(tmp_path)
    for text in ("gIoU", "Segment", "See: is it there?", "said absent though there", "Best"):
        assert text in page
    assert "what is 0 &lt;in&gt;" in page and "<in>" not in page
    assert "1,000 resamples, seed 0" in page and "prefers-color-scheme: dark" in page
    assert 12 <= checker.seen.count("img") <= 72


def test_the_legend_has_the_colours_of_the_masks(items, tmp_path):
    write_ours(tmp_path, items)
    score_folder(tmp_path)
    page, _ = check_page(tmp_path)
    for name, colour in (("answer", MASK_COLOUR), ("truth", TRUTH_COLOUR)):
        shown = "#" + bytes(colour).hex()
        assert f'style="background:{shown}"></span>{name}' in page


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_single_case_is_laid_out_well(tmp_path, visit, width):
    item = make_items(tmp_path, 1, seed=3)
    assert len(item[0].questions) == 1
    write_ours(tmp_path / "out", item)
    score_folder(tmp_path / "out")
    seen = visit((tmp_path / "out" / "report.html").as_uri(), width)
    boxes = seen.page.locator(".cases .tiles img").evaluate_all(
        "all => all.map(one => [one.getBoundingClientRect().width, one.clientHeight])"
    )
    assert len(boxes) == 3 and all(tall <= 300 and wide >= 80 for wide, tall in boxes)
    whole = seen.page.locator(".cases").bounding_box()
    (card,) = (one.bounding_box() for one in seen.page.locator(".cases .card").all())
    assert card["width"] == pytest.approx(whole["width"], abs=1) and card["height"] < 560
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "1 questions" not in seen.page.inner_text("body")


def test_only_some_answers_of_a_large_run_are_drawn():
    records = [
        make_record(n, there=n % 3 > 0, present=n % 4 > 0, both=n % 11, either=10 + n % 7)
        for n in range(20_000)
    ]
    groups = choose(records)
    assert [len(found) for found in groups.values()] == [6] * 4
    low = groups["Worst: segmented, IoU below 0.5"]
    assert all(miss_of(record) == "low_iou" for record in low)
    assert [record.iou for record in low] == [0.0] * 6
    assert groups["Best"][0].iou == max(r.iou for r in records if r.truth_present and r.present)
    assert all(r.union == 16 for r in groups["Worst: segmented though absent"])


def test_an_image_stands_in_a_group_once():
    records = [make_record(n // 5, both=n, either=100, number=n % 5) for n in range(20)]
    (found,) = choose(records).values()
    assert [record.image for record in found] == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("damage", ["missing", "broken", "resized"])
def test_images_that_cannot_be_shown_do_not_break_the_page(tmp_path, damage):
    items = make_items(tmp_path, 5)
    write_ours(tmp_path / "out", items)
    before = scored(tmp_path / "out")
    for item in items:
        path = Path(item.image_path)
        if damage == "missing":
            path.unlink()
        elif damage == "broken":
            path.write_bytes(b"\x89PNG no image")
        else:
            Image.new("RGB", (50, 40)).save(path)
    assert scored(tmp_path / "out") == before
    page, checker = check_page(tmp_path / "out")
    told = {"missing": "is not there", "broken": "cannot be read", "resized": "(40, 50)"}
    assert told[damage] in page and checker.seen.count("img") >= 8


def test_relative_images_are_found_in_a_folder(tmp_path):
    Image.new("RGB", (12, 10), (200, 10, 10)).save(tmp_path / "a.png")
    record = Record(0, 0, 1, "a.png", "q", "k", "a", True, True, 1, 2)
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    case = draw_case(record, (mask, mask.astype(np.uint8)), [tmp_path])
    assert case.note == "" and [caption for caption, _ in case.tiles] == [
        "image",
        "answer",
        "truth",
    ]
    assert draw_case(record, (None, None), []).tiles == []


def test_photographs_stay_small_on_the_page():
    noise = np.random.default_rng(0).integers(0, 256, (270, 360, 3), np.uint8)
    assert len(embed_thumbnail(noise)) < 120_000
    assert embed_thumbnail(noise).startswith("data:image/jpeg;base64,")
    assert embed_thumbnail(noise * 0).startswith("data:image/png;base64,")


def test_no_absent_questions_and_empty_unions():
    records = [make_record(n, both=n, either=4) for n in range(5)]
    records.append(make_record(5, both=0, either=0))
    scores = score(EvalResult(records))
    told = scores.as_dict()["all"]
    assert told["giou"] == pytest.approx((10 / 4 + 1) / 6, abs=1e-5)
    assert told["absent_precision"] is None and told["absent_recall"] is None
    assert told["intervals"]["absent_recall"] is None
    (table,) = score_tables({MODE: scores})
    assert [row[0] for row in table.rows] == ["k", "all"] and table.rows[1][-1] == "–"
    assert "objects that are there" not in table_text(table)
    assert scores.precision_at["0.5"] == pytest.approx(4 / 6)
    (table,) = score_tables({"teacher_forced": scores})
    assert table.header[-1] == "cIoU" and "(" in table.rows[0][-1]


def test_both_ways_of_asking_side_by_side():
    forced = [make_record(n, both=6, either=10) for n in range(3)]
    free = [make_record(n, both=4, either=10) for n in range(3)]
    free.append(make_record(3, there=False, present=False, both=0, either=0))
    modes = {"teacher_forced": score(EvalResult(forced)), MODE: score(EvalResult(free))}
    *_, table = score_tables(modes)
    assert table.rows[0] == ["gIoU", "0.600", "0.400", "-0.200"]
    assert table.rows[2] == ["questions", "3", "3", ""]
    run = EvalRun({}, lambda mode, record: (None, None))
    page = score_page(run, modes)
    assert "Two ways of asking" in page and "-0.200" in page
    assert page.index("Teacher-forced answers") < page.index("Generated answers")


def test_nothing_answered_at_all(tmp_path):
    write_ours(tmp_path, make_items(tmp_path, 2), broken=[0, 1])
    found = scored(tmp_path)[MODE]
    assert found["all"]["questions"] == 0 and found["all"]["giou"] is None
    assert len(found["skipped"]) == 2
    check_page(tmp_path)


def test_what_cannot_be_written_is_told(items, tmp_path):
    write_ours(tmp_path, items[:2])
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*metrics\.json"):
        score_folder(tmp_path)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"union": None}, "'union' is None"),
        ({"present": 1}, "'present' is 1 and should be of type bool"),
        ({"masks": [{"size": [1, 1], "counts": "~"}]}, "mask of image .* is damaged"),
    ],
)
def test_damaged_lines_are_named(items, tmp_path, change, told):
    write_ours(tmp_path, items)
    shard = shard_path(tmp_path, 0, 1)
    lines = [json.loads(line) for line in shard.read_text("utf-8").splitlines()]
    shard.write_text("".join(json.dumps({**line, **change}) + "\n" for line in lines))
    with pytest.raises(InputError, match=told):
        score_folder(tmp_path)


def test_a_question_in_two_files_is_refused(items, tmp_path):
    write_ours(tmp_path, items, world=2)
    shutil.copy(shard_path(tmp_path, 0, 2), shard_path(tmp_path, 1, 2))
    with pytest.raises(InputError, match="of 11 images"):
        score_folder(tmp_path)
    whole = shard_path(tmp_path, 0, 2).read_bytes()
    shutil.rmtree(tmp_path)
    write_ours(tmp_path, items, world=2)
    with shard_path(tmp_path, 1, 2).open("ab") as file:
        file.write(whole)
    with pytest.raises(InputError, match="twice"):
        score_folder(tmp_path)


def test_histogram():
    assert count_bins([0, 0.049, 0.05, 0.5, 1.0]) == [2, 1] + [0] * 7 + [0, 1] + [0] * 8 + [1]
    svg = histogram([0.1, 0.9, 0.95], "IoU <x>")
    assert svg.count("<rect") == 20 and "IoU &lt;x&gt;" in svg
    assert svg.count("bad-bar") == 10
    assert "nothing to count" in histogram([], "IoU")
    for most in (1, 2, 3, 9, 10, 1234):  # questions are counted in whole numbers
        labels = re.findall(r'text-anchor="end">([^<]*)<', histogram([0.3] * most, "IoU"))
        assert len(labels) >= 2 and all(float(label).is_integer() for label in labels)
