"""The page of an analysis in a real browser: order, filters, images."""

import json
from dataclasses import asdict

import pytest

from tests.analysed import analysed, draw_one, write_analysis
from tests.browser import DESKTOP, PHONE
from utils.analysis.dashboard import write_dashboard
from utils.analysis.records import read_analysis
from utils.analysis.summary import summarise
from utils.files import to_lines


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("an alysis #1")
    return write_dashboard(write_analysis(folder, 12)).as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("large")
    return write_dashboard(write_analysis(folder, 1000, drawn=False)).as_uri()


def questions(page) -> list[str]:
    return page.locator(".asked q").all_text_contents()


def things(page) -> list[int]:
    return [int(text.split()[-1].strip('?"”')) for text in questions(page)]


def broken_images(page) -> int:
    return page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length")


def overflows(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_page_fits_and_its_images_load(visit, small, width):
    seen = visit(small, width=width)
    page = seen.page
    assert things(page) == list(range(12))
    assert not overflows(page)
    page.locator(".look img").first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth > 0)")
    page.wait_for_load_state("networkidle")
    assert broken_images(page) == 0
    first = page.locator(".shot .stack").first.bounding_box()
    assert first["width"] > 60 and first["width"] / first["height"] == pytest.approx(100 / 60, 0.05)
    assert seen.errors == [] and seen.outside == []


def test_s_iou_means_one_thing(visit, tmp_path):
    """The measures tell S-IoU and best S-IoU, the questions the best one, each by its name."""
    folder = write_analysis(tmp_path, 1, models=1)
    (folder / "model 0" / "summary.json").unlink()
    records = list(read_analysis(folder / "model 0"))
    summary = json.dumps(summarise(records, "model 0"))
    (folder / "model 0" / "summary.json").write_text(summary)
    page = visit(write_dashboard(folder).as_uri()).page
    rows = dict(
        page.locator(".measures tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
        )
    )
    assert rows["S-IoU [SEG] x LLaVA"] == "0.500" and rows["best S-IoU [SEG] x LLaVA"] == "0.600"
    captions = page.locator(".caption").all_text_contents()
    assert "best S-IoU 0.600" in captions
    assert not any(caption.startswith("S-IoU") for caption in captions)
    said = page.inner_text("body")
    assert "S-IoU: of a map with the truth, the map cut half way" in said
    assert "Best S-IoU: cut where that is highest" in said and "1 question. Best S-IoU" in said
    assert page.inner_text("#count") == "1 of 1 question"


def test_order(visit, small):
    page = visit(small).page
    page.select_option("[name=sort]", label="final mask, model 0")
    # Absent ones have an empty union and an empty mask: IoU 1.
    assert things(page) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]
    page.select_option("[name=order]", "down")
    assert things(page)[:3] == [3, 7, 11] and things(page)[-1] == 0
    page.select_option("[name=sort]", label="[SEG] x LLaVA, model 0")
    assert things(page)[:2] == [10, 9] and things(page)[-3:] == [3, 7, 11]
    header = page.locator("#head th", has_text="LLaVA")
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("button").click()
    assert things(page)[0] == 0 and header.get_attribute("aria-sort") == "ascending"
    page.select_option("[name=sort]", label="final mask: model 0 minus model 1")
    assert set(things(page)) == set(range(12))
    assert things(page)[-3:] == [3, 7, 11]
    page.select_option("[name=sort]", label="[SEG] x LLaVA: model 0 minus model 1")
    assert things(page)[-3:] == [3, 7, 11]


@pytest.mark.parametrize(
    ("columns", "width", "cards"), [(1, PHONE, 0), (10, 1000, 1), (10, 1500, 0)]
)
def test_images_stay_large_enough_whatever_is_shown(visit, small, columns, width, cards):
    seen = visit(small, width=width)
    page = seen.page
    boxes = page.locator("[name=column]")
    for place in range(boxes.count()):
        boxes.nth(place).set_checked(place < columns)
    assert page.locator("#head th").count() == columns + 1
    assert page.locator("table.cards").count() == cards and not overflows(page)
    looks = page.locator(".made").first.locator(".look")
    widths = [looks.nth(place).bounding_box()["width"] for place in range(columns)]
    assert min(widths) > 95 and max(widths) < min(widths) + 2
    # Tall images keep their shape.
    tall = page.locator(".asked", has_text="thing 1?").locator("xpath=../tr[2]").locator(".stack")
    box = tall.first.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(60 / 100, 0.05)
    assert seen.errors == []


def test_odd_texts_and_names_of_a_single_model(visit, tmp_path):
    folder = write_analysis(tmp_path, 0, models=1)
    own = (folder / "model 0").rename(folder / "a#1 %41?<b>")
    odd = "</script><img src=x onerror=alert(1)> \"'<!-- & 图"
    found = analysed(0, images=draw_one(own, 0), question=odd, answer=odd, kind=odd)
    (own / "questions.jsonl").write_text(to_lines([asdict(found)]), encoding="utf-8")
    seen = visit(write_dashboard(folder).as_uri())
    page = seen.page
    assert questions(page) == [odd] and page.inner_text(".answer") == odd
    assert not page.locator("#models").is_visible() and page.locator(".shot img").count() > 8
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
    page.locator(".shot").first.click()
    assert page.inner_text("#large-title") == odd
    page.keyboard.press("Escape")
    page.select_option("[name=kind]", odd)
    page.reload()
    assert questions(page) == [odd] and page.input_value("[name=kind]") == odd
    assert seen.errors == [] and seen.outside == []


def test_filters_and_a_view_that_can_be_shared(visit, small):
    seen = visit(small)
    page = seen.page
    page.select_option("[name=truth]", "absent")
    assert things(page) == [3, 7, 11]
    page.fill("[name=search]", "thing 7")
    assert things(page) == [7] and page.inner_text("#count") == "1 of 12 questions"
    page.get_by_label("model 1", exact=True).uncheck()
    assert page.locator(".made").count() == 1
    page.get_by_label("final mask", exact=True).uncheck()
    again = visit(page.url).page
    assert things(again) == [7] and again.locator(".made").count() == 1
    assert "final mask" not in again.locator("#head").inner_text()
    again.get_by_role("button", name="reset").click()
    again.wait_for_function("document.querySelectorAll('.asked').length === 12")
    assert again.url == small and again.locator(".made").count() == 24
    again.select_option("[name=kind]", "long")
    assert things(again) == [1, 3, 5, 7, 9, 11]
    again.select_option("[name=answered]", "wrong")
    assert things(again) == []
    assert seen.errors == []


def test_one_image_large(visit, small):
    page = visit(small).page
    page.locator(".shot").first.click()
    large = page.locator("#large")
    assert large.is_visible() and "image" in large.inner_text()
    page.keyboard.press("ArrowRight")
    assert "[SEG] x CLIP" in page.inner_text("#large-caption")
    assert page.locator("#large-shot img").count() == 2
    page.keyboard.press("ArrowDown")
    assert "model 1: [SEG] x CLIP" in page.inner_text("#large-caption")
    page.get_by_role("button", name="row below").click()
    assert page.inner_text("#large-title") == "Where is thing 1?"
    assert page.inner_text("#large-answer") == "Sure, [SEG] 1."
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # nothing is above the first one
    assert "model 0: [SEG] x CLIP" in page.inner_text("#large-caption")
    page.get_by_role("button", name="previous image").click()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#large-caption") == "model 0: truth"
    page.keyboard.press("Escape")
    assert not large.is_visible()


def test_a_thousand_questions_are_laid_out_as_they_are_reached(visit, large):
    seen = visit(large)
    page = seen.page
    assert page.locator(".asked").count() == 30
    for _ in range(3):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
    assert 60 <= page.locator(".asked").count() < 1000
    page.fill("[name=search]", "thing 987")
    assert things(page) == [987]
