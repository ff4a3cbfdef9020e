"""The image of the page in `docs/web.md`.

python -m tests.web.screenshot MODEL IMAGE QUESTION OUT.png [WIDTH]
"""

import sys

from PIL import Image

from model import load_read
from tests.browser import DESKTOP, Visit, open_chromium
from web.serving import serving


def screenshot(model: str, image: str, question: str, out: str, width: int = DESKTOP) -> None:
    """Ask on the page, and write what it looks like then."""
    with serving(load_read(model)) as address, open_chromium() as chromium:
        viewport = {"width": width, "height": 900}
        page = Visit(chromium.new_context(viewport=viewport).new_page()).page
        page.goto(address)
        page.set_input_files("#image input[type=file]", image)
        page.wait_for_selector("#status >> text=pixels. Ask")
        page.fill("#question textarea", question)
        page.click("#ask")
        page.wait_for_selector("#status dl.yes")
        page.wait_for_selector("#overlay img")
        page.wait_for_timeout(1000)
        page.screenshot(path=out, full_page=True)
    with Image.open(out) as shot:
        shot.convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    screenshot(*sys.argv[1:5], *map(int, sys.argv[5:]))
