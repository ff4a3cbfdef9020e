"""How soon the page of `demo.py --web` shows another mask after a slider has moved.

    python -m benchmarks.web_sliders [--model quickstart_output/merged] [--moves 60]

Needs the model of the quickstart, gradio and a Chromium. Measured are, in turn, on an image of the
toy world and on the same enlarged to the size of a photograph:

* server: new masks, their drawing and the PNG file (`web.session`);
* browser: from the slider's event to the loaded image, through the real server and Chromium;
* asking again: what the mask costs where the language model and SAM's encoder run again.

Ends with exit code 1 if the 95th percentile of the first two is above 300 ms on the toy image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import torch
from PIL import Image

from dataset.toy.world import MIN_IMAGES, write_world
from model import load_read
from model.inference.reader import Reader
from tests.browser import open_chromium
from utils.protocol.image_files import read_image
from utils.reports.visualize import encode_png
from web.engine import Engine
from web.limits import Limits
from web.serving import serving
from web.session import Session

QUESTION = "Which object can roll? Please output segmentation mask."
REQUIRED_MS = 300
PHOTOGRAPH = 1600
"""Longer side in pixels of the enlarged image."""
MOVED = """value => new Promise(done => {
  const image = document.querySelector('#overlay img');
  const slider = document.querySelector('#t_pos input[type=range]');
  const began = performance.now();
  image.addEventListener('load', () => done(performance.now() - began), {once: true});
  slider.value = value;
  slider.dispatchEvent(new Event('input', {bubbles: true}));
})"""


def settings(move: int) -> dict[str, float]:
    """Of the n-th move of the slider."""
    return {"t_pos": 0.5 + 0.01 * (move % 40)}


def on_server(session: Session, moves: int) -> list[float]:
    """Milliseconds of each move."""
    taken = []
    for move in range(moves):
        began = time.perf_counter()
        session.set(settings(move))
        overlay = session.overlay()
        if overlay is None:
            raise SystemExit("the model gave no answer to draw")
        encode_png(overlay, level=1)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def in_browser(address: str, image: Path, moves: int) -> list[float]:
    """Milliseconds of each move."""
    with open_chromium() as chromium:
        page = chromium.new_page()
        page.goto(address)
        page.set_input_files("#image input[type=file]", str(image))
        page.wait_for_selector("#status >> text=pixels")
        page.fill("#question textarea", QUESTION)
        page.click("#ask")
        page.wait_for_selector("#status dl.yes")
        page.wait_for_selector("#overlay img")
        return [page.evaluate(MOVED, settings(move)["t_pos"]) for move in range(moves + 3)][3:]


def asking_again(reader: Reader, session: Session, image: Path, times: int) -> list[float]:
    """Milliseconds of each answer."""
    pixels = read_image(image)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        reader.segment(pixels, QUESTION)
        overlay = session.overlay()
        if overlay is not None:
            encode_png(overlay, level=1)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def line(what: str, taken: list[float]) -> str:
    """A row of the table."""
    return f"| {what} | {median(taken):.0f} | {quantiles(taken, n=20)[-1]:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="quickstart_output/merged")
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reader = load_read(arguments.model)
    slowest, rows = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder) / "toy", MIN_IMAGES, seed=1, sets=("reason_seg",))
        toy = sorted(Path(folder).rglob("ReasonSeg/test/*.jpg"))[0]
        with Image.open(toy) as image:
            factor = PHOTOGRAPH / max(image.size)
            large = Path(folder) / "large.png"
            image.resize((round(image.width * factor), round(image.height * factor))).save(large)
        for image_path in (toy, large):
            with Image.open(image_path) as image:
                name = f"{image.width}x{image.height}"
            session = Session(Engine(reader), Limits())
            session.open(str(image_path))
            list(session.ask(QUESTION, {}, force_seg=True))
            on_server(session, 3)
            with serving(reader) as address:
                shown = in_browser(address, image_path, arguments.moves)
            made = on_server(session, arguments.moves)
            again = asking_again(reader, session, image_path, 20)
            rows += [
                line(f"{name}, server", made),
                line(f"{name}, browser", shown),
                line(f"{name}, asking again", again),
            ]
            if image_path is toy:
                slowest = max(quantiles(made, n=20)[-1], quantiles(shown, n=20)[-1])
    print(
        f"{arguments.moves} moves of a slider, threads: {arguments.threads}, "
        f"PyTorch {torch.__version__}\n\n| | median [ms] | 95 % below [ms] |\n| --- | --- | --- |"
    )
    print("\n".join(rows))
    return 0 if slowest <= REQUIRED_MS else 1


if __name__ == "__main__":
    sys.exit(main())
