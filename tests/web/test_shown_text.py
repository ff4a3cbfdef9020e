"""Questions and answers are shown as the text that they are, in a real Chromium."""

import numpy as np
import pytest
from PIL import Image

from model.inference.prompts import PromptFormat
from tests.web.test_page import DONE, calm, encoded_image

STRANGE = {
    "cover": '<div style="position:fixed;inset:0;z-index:9999;background:red">a</div>',
    "image": "<img src=x onerror=\"document.title='taken'\">",
    "script": "</p></div><script>document.title='taken'</script>",
    "style": "<style>body{display:none}</style>",
    "link": "[press](http://evil.test/) ![x](http://evil.test/a.png) http://evil.test",
    "markdown": "# big *italic* **bold** `code` ~~gone~~",
    "latex": r"$$\frac{1}{2}$$ and $x^2$ and \(y\)",
    "template": "${document.title='taken'} {{value}} {value} #if",
    "entity": "&lt;b&gt; &amp;amp; &quot;",
    "lines": "one\n  two\n\nthree",
}


def ask_strangely(seen, text: str) -> None:
    seen.page.uncheck("#mask input")
    seen.page.fill("#question textarea", text)
    seen.page.click("#ask")
    seen.page.wait_for_selector(DONE)
    seen.page.wait_for_selector("#talk .answer")


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_questions_and_answers_are_shown_literally(visit, server, upload, monkeypatch, text):
    monkeypatch.setattr(PromptFormat, "text", lambda self, ids: text)
    seen = visit(server)
    page = seen.page
    encoded_image(seen, upload)
    ask_strangely(seen, text)
    assert page.inner_text("#talk .question") == text
    assert page.inner_text("#talk .answer") == text
    said = page.inner_text("#status dd:nth-of-type(2)")
    assert said.split() == text.split()
    assert page.locator("#talk .question *, #talk .answer *, #status dd *").count() == 0
    assert page.title() == "READ: reasoning to attend"
    page.click("#ask", trial=True)  # nothing lies over it
    assert calm(seen)


def test_the_name_of_a_file_is_no_html(visit, server, tmp_path):
    seen = visit(server)
    path = tmp_path / "<img src=x onerror=document.title='taken'>.png"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
    encoded_image(seen, str(path))
    assert seen.page.title() == "READ: reasoning to attend"
    assert seen.page.locator("img[onerror]").count() == 0 and calm(seen)


def test_the_newest_words_are_in_sight(visit, server, upload):
    seen = visit(server)
    encoded_image(seen, upload)
    ask_strangely(seen, "a\n" * 40 + "end")
    log = seen.page.locator("#talk [role=log]").bounding_box()
    box = seen.page.locator("#talk").bounding_box()
    assert log["height"] > box["height"]
    assert log["y"] + log["height"] <= box["y"] + box["height"]


def test_half_a_character_is_an_error_with_words(visit, server, upload):
    seen = visit(server)
    page = seen.page
    encoded_image(seen, upload)
    page.evaluate(
        r"""() => { const field = document.querySelector('#question textarea');
          field.value = 'a cat \ud83d'; field.dispatchEvent(new Event('input')); }"""
    )
    page.click("#ask")
    page.wait_for_selector("#status .error >> text=lone surrogate")
    ask_strangely(seen, "a cat \U0001f431")
    assert page.inner_text("#talk .question") == "a cat \U0001f431"
