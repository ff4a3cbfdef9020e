"""The page of an analysis: what it holds, for odd texts, and for a thousand questions."""

import json
import math
import re

import pytest

from tests.analysed import analysed, write_analysis
from utils.analysis.dashboard import ModelAnalysis, page, page_data, write_dashboard
from utils.analysis.records import MapScore
from utils.errors import InputError
from utils.reports.charts import Curve, line_chart

ODD = "</script><script>alert(1)</script> \"'<!-- & \u2028 é 图 [SEG]"


def data_of(text: str) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(block)


def test_odd_texts_stay_texts():
    found = analysed(0, question=ODD, answer=ODD, image=f"{ODD}.jpg", kind=ODD)
    summary = {
        "measures": {"all": {ODD: {"value": 1.0, "low": None, "high": None}}},
        "notes": [ODD],
    }
    text = page([ModelAnalysis(ODD, [found], summary)])
    assert "alert(1)</script>" not in text and text.count("<script") == 2
    (question,) = data_of(text)["questions"]
    assert question["text"] == question["answers"][0]["text"] == question["kind"] == ODD


def test_models_with_other_questions():
    first = ModelAnalysis("a", [analysed(0), analysed(1)], {})
    second = ModelAnalysis("b", [analysed(1, 1), analysed(2, 1)], {})
    data = page_data([first, second])
    there = [[answer is not None for answer in q["answers"]] for q in data["questions"]]
    assert there == [[True, False], [True, True], [False, True]]
    assert data["questions"][1]["answers"][1]["scores"] == {
        "final": 0.31, "points": 0.31, "llava": 0.601
    }  # fmt: skip
    assert "Measures" not in page([first, second])


def test_the_same_key_in_other_data_is_another_question():
    first = ModelAnalysis("a", [analysed(0), analysed(1), analysed(2)], {})
    other = [
        analysed(0, question="Another?"), analysed(1, image="/moved/toy_0001.jpg"),
        analysed(2, image="other.jpg"),
    ]  # fmt: skip
    data = page_data([first, ModelAnalysis("b", other, {})])
    there = [[answer is not None for answer in q["answers"]] for q in data["questions"]]
    assert there == [[False, True], [True, False], [True, True], [False, True], [True, False]]


def test_scores_that_are_no_numbers_stay_out():
    found = analysed(0, maps={"llava": MapScore(math.nan, math.nan, 0.5)})
    (question,) = data_of(page([ModelAnalysis("a", [found], {})]))["questions"]
    assert set(question["answers"][0]["scores"]) == {"points", "final"}


def test_files_of_layers_are_told_shortly_or_in_full(tmp_path):
    plain = {
        "image": "images/abc.png",
        "llava": "images/7_llava.png",
        "final": "images/7_final.png",
    }
    odd = {"image": "p.png", "llava": "one.png", "final": "other.png"}
    alone = {"image": "p.jpg", "final": "one.jpg"}
    questions = [analysed(n, images=named) for n, named in enumerate((plain, odd, alone))]
    first, second, third = (
        q["answers"][0] for q in page_data([ModelAnalysis("a", questions, {})])["questions"]
    )
    assert first["start"] == "images/7_" and first["layers"] == ["llava", "final"]
    assert first["image"] == "images/abc.png"
    assert second["layers"] == {"llava": "one.png", "final": "other.png"}
    assert third["layers"] == {"final": "one.jpg"}
    columns = page_data([ModelAnalysis("a", questions, {})])["columns"]
    assert [column["id"] for column in columns] == ["image", "llava", "final"]


def test_a_thousand_questions_to_two_models(tmp_path):
    text = write_dashboard(write_analysis(tmp_path, 1000, drawn=False)).read_text("utf-8")
    assert len(text) < 2_000_000
    assert len(data_of(text)["questions"]) == 1000
    assert ">0.500 <small>0.400–0.700</small>" in text and "<summary>long</summary>" in text
    assert text.count('class="band line-') == 2 and "model 1: note 1" in text


def test_notes_of_all_models_stand_once_and_settings_are_told(tmp_path):
    folder = write_analysis(tmp_path, 1, drawn=False)
    for model in range(2):
        (folder / f"model {model}" / "summary.json").write_text('{"notes": ["the same note"]}')
    (folder / "model 1" / "config.yaml").write_text("word: <b>cup</b>\n")
    text = write_dashboard(folder).read_text("utf-8")
    assert text.count("the same note") == 1 and "model 0: the same note" not in text
    assert "settings of model 0" not in text and "settings of model 1" in text
    assert "word: &lt;b&gt;cup&lt;/b&gt;" in text


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"no analysis in .*MODEL/questions\.jsonl"):
        write_dashboard(tmp_path)
    folder = write_analysis(tmp_path, 1, drawn=False)
    (folder / "model 0" / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json .*--cmd dashboard"):
        write_dashboard(folder)
    (folder / "model 0" / "summary.json").unlink()
    write_dashboard(folder)
    (folder / "model 0" / "questions.jsonl").write_text("{}\n{}\n")
    with pytest.raises(InputError, match="line 1, is damaged"):
        write_dashboard(folder)


def test_a_band_lies_around_its_line():
    chart = line_chart([Curve("a", [(0, 1), (1, 2)], [(0, 0.5, 3.0), (1, 1.5, 4.0)])], "x")
    (corners,) = re.findall(r'<polygon class="band line-0" points="(.*?)"', chart)
    places = [tuple(map(float, corner.split(","))) for corner in corners.split()]
    (line,) = re.findall(r'<polyline class="line-0" points="(.*?)"', chart)
    start = tuple(map(float, line.split()[0].split(",")))
    assert len(places) == 4 and places[0][1] < start[1] < places[3][1]
