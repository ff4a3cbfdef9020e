"""The HTML page: complete, self-contained, and safe against what models say."""

import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from utils.errors import InputError
from utils.evaluation.evaluator import EvalResult, Record
from utils.reports.charts import Curve, line_chart, moving_average, ticks
from utils.reports.page import (
    Report,
    Table,
    example_of,
    kind_table,
    number,
    render,
    signed,
    table_text,
    write_report,
)


def record(item, kind, exists, present, both, either):
    return Record(item, 0, 1, "a.png", "q", kind, "a", present, exists, both, either)


RESULT = EvalResult(
    [
        record(0, "direct", True, True, 90, 100),
        record(1, "reasoning", True, False, 0, 50),
        record(2, "absent", False, False, 0, 0),
    ]
)


def make_report() -> Report:
    image = np.full((20, 30, 3), 90, np.uint8)
    truth = np.zeros((20, 30), np.uint8)
    truth[5:10, 5:10] = 1
    segment = SimpleNamespace(
        mask=truth == 1,
        similarity=np.eye(4, dtype=np.float32),
        points=np.array([[7.0, 7.0], [25.0, 15.0]]),
        point_labels=np.array([1, 0]),
    )
    answer = SimpleNamespace(
        text="<script>alert(1)</script>", present=True, segments=[segment], mask=truth == 1
    )
    return Report(
        title="READ",
        intro="An introduction.",
        figures=[("gIoU", "0.71", "unseen")],
        charts=[("Loss", line_chart([Curve("total", [(0, 2.0), (10, 1.0)])], "step", window=2))],
        tables=[kind_table("Kinds", RESULT)],
        examples=[example_of(image, "Where?", answer, truth, True, 1.0)],
        details=[("Configuration", "lr: 0.001")],
    )


class Checker(HTMLParser):
    VOID = {"meta", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing_from_outside():
    page = render(make_report())
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert {"svg", "table", "img", "details"} <= set(checker.seen)
    assert not {"script", "link", "iframe"} & set(checker.seen)
    assert len(checker.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in checker.sources)
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_text_of_the_model_is_escaped():
    assert "&lt;script&gt;alert(1)" in render(make_report())


def test_an_empty_report_renders():
    assert "<h1>READ</h1>" in render(Report("READ", ""))


def test_the_file_is_written_or_the_path_is_named(tmp_path):
    assert write_report(tmp_path / "new" / "report.html", make_report()).stat().st_size > 1000
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", make_report())


def test_kind_table():
    table = kind_table("Kinds", RESULT)
    assert table.header[-1] == "See"
    assert table.rows == [
        ["absent", "1", "1.000", "–", "1.000"],
        ["direct", "1", "0.900", "0.900", "1.000"],
        ["reasoning", "1", "0.000", "0.000", "0.000"],
        ["objects that are there", "2", "0.450", "0.600", "0.500"],
        ["all", "3", "0.633", "0.600", "0.667"],
    ]
    forced = kind_table("Kinds", EvalResult(RESULT.records[:2]), see=False)
    assert [row[0] for row in forced.rows] == ["direct", "reasoning", "all"]
    assert forced.header[-1] == "cIoU"


def test_table_in_the_terminal():
    text = table_text(Table("Kinds", ["kind", "gIoU"], [["direct", "0.9"], ["a", "0.25"]]))
    assert text.splitlines()[2:5] == ["kind    gIoU", "------------", "direct   0.9"]
    words = table_text(Table("Words", ["a", "b"], [["x", "long words"], ["y", "short"]]))
    assert words.splitlines()[-2] == "y  short"


@pytest.mark.parametrize("widest", [140, 90, 40])
def test_a_wide_table_is_wrapped(widest):
    header = ["kind of question", "questions", *(f"metric {n}" for n in range(6))]
    cells = [f"0.{n}23 (0.{n}00–0.{n}99)" for n in range(6)]
    rows = [["objects that are there", "7", *cells], ["a_name_without_any_space", "12", *cells]]
    text = table_text(Table("A title that is long " * 9, header, rows), widest)
    assert max(map(len, text.splitlines())) <= widest
    told = re.sub(r"\s", "", text)
    if widest == 140:  # nothing is broken but at spaces
        words = {word for cell in [*header, *rows[0], *rows[1]] for word in cell.split()}
        assert words <= set(text.split())
    assert all(number_ in told for number_ in ("7", "12"))
    narrow = Table("T", header[:2], [row[:2] for row in rows])
    assert len(table_text(narrow).splitlines()) == 7


def test_an_invented_object_gives_no_ciou():
    """0.000 would look like a bad score of a group that cannot have a good one."""
    invented = record(3, "absent", False, True, 0, 40)
    table = kind_table("Kinds", EvalResult([*RESULT.records, invented]))
    assert table.rows[0] == ["absent", "2", "0.500", "–", "0.500"]
    assert table.rows[-1][3] == number(90 / 190)


def test_questions_without_a_kind():
    """No row "-": where no question has a kind there is nothing to tell apart."""
    nameless = [record(n, "", True, True, 5, 10) for n in range(2)]
    table = kind_table("Kinds", EvalResult(nameless))
    assert [row[0] for row in table.rows] == ["all"]
    mixed = EvalResult([*nameless, record(2, "-", True, True, 1, 10)])
    rows = kind_table("Kinds", mixed).rows
    assert [row[:2] for row in rows] == [["no kind", "2"], ["-", "1"], ["all", "3"]]
    assert {kind: one["questions"] for kind, one in mixed.summary()["per_kind"].items()} == {
        "": 2,
        "-": 1,
    }
    text = table_text(Table("Kinds", ["kind of question", "n"], [["-", "1"]]))
    assert text.splitlines()[-2] == "-                 1"


def test_numbers():
    assert (number(0.12345), number(None), number(math.nan)) == ("0.123", "–", "–")
    assert (number(-0.00004), number(-0.0, 4), number(-0.0006)) == ("0.000", "0.0000", "-0.001")
    assert (signed(-0.00004, 4), signed(0.00004, 4), signed(0.0)) == ("0.0000", "0.0000", "0.000")
    assert (signed(-0.25), signed(0.25, 2), signed(math.nan)) == ("-0.250", "+0.25", "–")


def test_moving_average():
    pairs = [(0, 1.0), (1, 3.0), (2, 5.0)]
    assert moving_average(pairs, 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]
    assert moving_average(pairs, 1) == pairs


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0), (0.013, 0.014), (-3, 700), (5, 5)])
def test_ticks_cover_the_range(low, high):
    values = ticks(low, high)
    assert values[0] <= low and values[-1] >= high
    assert 2 <= len(values) <= 8 and values == sorted(set(values))


def test_charts_stay_inside_and_leave_out_what_is_not_finite():
    svg = line_chart([Curve("loss", [(0, 3.0), (1, math.nan), (2, 1.0)])], "step")
    points = [p.split(",") for p in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert len(points) == 2
    assert all(0 <= float(x) <= 560 and 0 <= float(y) <= 260 for x, y in points)
    assert "No values" in line_chart([Curve("loss", [])], "step")
    with pytest.raises(ValueError, match="at most 4"):
        line_chart([Curve(str(n), [(0, 0)]) for n in range(5)], "step")
