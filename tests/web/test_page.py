"""The page in a real Chromium."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import DESKTOP, PHONE, Visit
from tests.model.babble import QUESTIONS
from tests.web import hostile
from tests.web.conftest import LIMITS
from tests.web.test_session import fresh
from utils.protocol.conversation import MASK_REQUEST
from utils.protocol.rle import decode_mask

QUESTION = QUESTIONS[0]
DONE = "#status dl.yes, #status dl.no"
WATCH_WORDS = """() => {
  window.heard = [];
  const status = document.querySelector('#status');
  const hear = () => {
    const said = status.querySelector('dl dd:nth-of-type(2)');
    if (said && window.heard.at(-1) !== said.innerText) window.heard.push(said.innerText);
  };
  new MutationObserver(hear).observe(status, {subtree: true, childList: true, characterData: true});
}"""


def calm(seen: Visit) -> bool:
    """Nothing went wrong, and nobody else was asked for anything.

    Some releases of gradio name a script of another host, which the page's policy keeps away.
    """
    return seen.outside == [] and all("iframe-resizer" in error for error in seen.errors)


def encoded_image(seen: Visit, path: str) -> None:
    seen.page.set_input_files("#image input[type=file]", path)
    seen.page.wait_for_selector("#status >> text=80 x 60 pixels")


def ask(seen: Visit, question: str) -> None:
    """Ask with these very words."""
    seen.page.uncheck("#mask input")
    seen.page.fill("#question textarea", question)
    seen.page.click("#ask")
    seen.page.wait_for_selector(f"#talk >> text={question}")
    seen.page.wait_for_selector(DONE)


def shown(seen: Visit) -> str:
    return seen.page.get_attribute("#overlay img", "src")


def after(seen: Visit, before: str) -> str:
    """The overlay that takes the place of another."""
    seen.page.wait_for_function(
        "before => { const now = document.querySelector('#overlay img');"
        " return now && now.src !== before && now.complete }",
        arg=before,
    )
    return shown(seen)


def download(seen: Visit, name: str) -> bytes:
    with seen.page.expect_download() as waiting:
        seen.page.click(f"#files a[download='{name}']")
    assert waiting.value.suggested_filename == name
    return Path(waiting.value.path()).read_bytes()


def mask_of(seen: Visit) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(download(seen, "mask.png")))) == 255


def test_upload_ask_move_a_slider_click_and_download(visit, server, reader, upload, image):
    seen = visit(server)
    page = seen.page
    encoded_image(seen, upload)
    page.evaluate(WATCH_WORDS)
    ask(seen, QUESTION)
    plain = reader.segment(image, QUESTION, max_new_tokens=LIMITS.new_tokens)
    heard = [part for part in page.evaluate("window.heard") if part]
    assert len(heard) > 3 and heard[-1].split() == plain.text.split()
    assert page.inner_text("#status dl dd:first-of-type") == "yes"
    assert f"{plain.mask.sum()} pixels" in page.inner_text("#status")
    assert np.array_equal(mask_of(seen), plain.mask)
    first = shown(seen)
    assert page.is_visible("#similarity img") and page.is_visible("#layers")

    page.locator("#num_points input[type=range]").fill("2")
    second = after(seen, first)
    expected = fresh(reader, image, num_points=2)
    assert np.array_equal(mask_of(seen), expected[0] | expected[1])
    code = json.loads(download(seen, "mask_rle.json"))
    for layer, wanted in zip(code["layers"], expected, strict=True):
        assert np.array_equal(decode_mask(layer), wanted)
    assert json.loads(download(seen, "polygons.json"))["size"] == [60, 80]

    box = page.locator("#overlay img").bounding_box()
    place = {"x": box["width"] / 4, "y": box["height"] / 2}
    page.click("#overlay img", position=place)
    third = after(seen, second)
    with_point = mask_of(seen)
    assert not np.array_equal(with_point, expected[0] | expected[1])
    page.click("#mode >> text=remove")
    page.click("#overlay img", position=place)
    fourth = after(seen, third)
    assert np.array_equal(mask_of(seen), expected[0] | expected[1])

    page.click("#layers label >> nth=0")
    after(seen, fourth)
    assert np.array_equal(mask_of(seen), expected[1])
    assert calm(seen)


def test_follow_up_questions_and_examples(visit, server, reader, upload, image):
    seen = visit(server)
    encoded_image(seen, upload)
    ran = []
    encoder = reader.model.model.visual_model.image_encoder
    hook = encoder.register_forward_pre_hook(lambda *_: ran.append(1))
    for question in (QUESTION, QUESTIONS[2]):
        ask(seen, question)
        seen.page.wait_for_selector("#files a")
        answer = reader.segment(image, question, max_new_tokens=LIMITS.new_tokens)
        assert answer.text.split()[-1] in seen.page.inner_text("#talk")
        seen.page.wait_for_selector(f"#status >> text={answer.mask.sum()} pixels")
        assert np.array_equal(mask_of(seen), answer.mask)
    hook.remove()
    assert len(ran) == 1 + 2  # one for the page, one for each answer here
    seen.page.click("#examples button >> nth=0")
    seen.page.wait_for_function(
        "document.querySelector('#question textarea').value.includes('can roll?')"
    )
    assert calm(seen)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_sticks_out_of_the_page(visit, server, upload, width):
    seen = visit(server, width=width)
    encoded_image(seen, upload)
    ask(seen, QUESTION)
    seen.page.wait_for_selector("#overlay img")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = {
        name: seen.page.locator(f"#{name}").bounding_box()
        for name in ("image", "question", "ask", "status", "overlay", "sliders", "talk")
    }
    for box in boxes.values():
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 100
    beside = boxes["overlay"]["x"] > boxes["ask"]["x"] + boxes["ask"]["width"]
    assert beside == (width == DESKTOP)


def test_a_bad_image_or_question_is_told_and_the_page_lives(visit, server, upload, tmp_path):
    seen = visit(server)
    page = seen.page
    page.click("#ask")
    page.wait_for_selector("#status .error >> text=open an image")
    for name in ("text.png", "bomb.png", "truncated.png"):
        page.set_input_files("#image input[type=file]", str(hostile.write(tmp_path, name)))
        page.wait_for_selector(f"#status .error >> text={hostile.FILES[name][1]}")
        page.click("#image button[aria-label*='emove'], #image button[aria-label='Clear']")
        page.wait_for_selector("#status .note")
    encoded_image(seen, upload)
    page.click("#ask")
    page.wait_for_selector("#status .error >> text=type a question")
    page.fill("#question textarea", "<b>/etc/passwd</b> http://127.0.0.1/ <image>")
    page.click("#ask")
    page.wait_for_selector("#status .error >> text=<b>/etc/passwd</b>")
    ask(seen, QUESTION)
    assert seen.outside == []


def test_enter_asks_and_shift_enter_breaks_the_line(visit, server, upload):
    seen = visit(server)
    page = seen.page
    encoded_image(seen, upload)
    assert "Enter asks" in page.inner_text("#question") and "Shift+Enter" in page.content()
    field = page.locator("#question textarea")
    page.uncheck("#mask input")
    field.click()
    page.keyboard.type("Segment the")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("cat")
    assert field.input_value() == "Segment the\ncat"
    assert page.locator("#talk .question").count() == 0
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    assert page.inner_text("#talk .question") == "Segment the\ncat"
    assert field.input_value() == "Segment the\ncat"
    assert calm(seen)


def test_a_mask_is_asked_for_unless_the_visitor_unticks_it(visit, server, upload):
    seen = visit(server)
    page = seen.page
    encoded_image(seen, upload)
    assert MASK_REQUEST in page.inner_text("#mask")
    questions = page.locator("#talk .question")
    for number, question in enumerate(["Where is the cat?", "A Segmentation mask!"]):
        page.fill("#question textarea", question)
        page.click("#ask")
        page.wait_for_function(f"document.querySelectorAll('#talk .answer').length > {number}")
        page.wait_for_selector(DONE)
    page.uncheck("#mask input")
    page.fill("#question textarea", "Where is the cat?")
    page.click("#ask")
    page.wait_for_function("document.querySelectorAll('#talk .answer').length > 2")
    wanted = [f"Where is the cat? {MASK_REQUEST}", "A Segmentation mask!", "Where is the cat?"]
    assert questions.all_inner_texts() == wanted
