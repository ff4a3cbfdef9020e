"""The page of an analysis in a real browser: order, filters, pictures."""

import pytest

from tests.analysed import write_analysis
from tests.browser import DESKTOP, PHONE
from utils.dashboard import write_dashboard


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("an alysis #1")
    return write_dashboard(write_analysis(folder, 12)).as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("large")
    return write_dashboard(write_analysis(folder, 1000, drawn=False)).as_uri()


def questions(page) -> list[str]:
    return page.locator(".asked q").all_inner_texts()


def things(page) -> list[int]:
    return [int(text.split()[-1].strip('?"”')) for text in questions(page)]


def broken_pictures(page) -> int:
    return page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length")


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_page_fits_and_its_pictures_load(visit, small, width):
    seen = visit(small, width=width)
    page = seen.page
    assert things(page) == list(range(12))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".look img").first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth > 0)")
    page.wait_for_load_state("networkidle")
    assert broken_pictures(page) == 0
    first = page.locator(".shot .stack").first.bounding_box()
    assert first["width"] > 60 and first["width"] / first["height"] == pytest.approx(100 / 60, 0.05)
    assert seen.errors == [] and seen.outside == []


def test_order(visit, small):
    page = visit(small).page
    page.select_option("[name=sort]", label="final mask, model 0")
    # Absent ones have an empty union and an empty mask: IoU 1.
    assert things(page) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]
    page.select_option("[name=order]", "down")
    assert things(page)[:3] == [3, 7, 11] and things(page)[-1] == 0
    page.select_option("[name=sort]", label="[SEG] x LLaVA, model 0")
    assert things(page)[:2] == [10, 9] and things(page)[-3:] == [3, 7, 11]
    page.get_by_role("button", name="[SEG] x LLaVA ↓").click()
    assert things(page)[0] == 0
    page.select_option("[name=sort]", label="final mask: model 0 minus model 1")
    assert set(things(page)) == set(range(12))
    assert things(page)[-3:] == [3, 7, 11]


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


def test_one_picture_large(visit, small):
    page = visit(small).page
    page.locator(".shot").first.click()
    large = page.locator("#large")
    assert large.is_visible() and "picture" in large.inner_text()
    page.keyboard.press("ArrowRight")
    assert "[SEG] x CLIP" in page.inner_text("#large-caption")
    assert page.locator("#large-shot img").count() == 2
    page.get_by_role("button", name="previous picture").click()
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
