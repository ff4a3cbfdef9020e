"""Ask READ about an image: a chat in the terminal, one question (`--image --prompt`), or a page
in the browser (`--web`).

See: is the object there? Say: the model's words. Segment: mask, overlay with the points, and the
similarity map, as files. The model is imported once the flags are read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np

from utils.cli.entry_point import cli
from utils.cli.options import DemoOptions
from utils.cli.parser import parse
from utils.errors import InputError
from utils.hub.models import check_models
from utils.protocol.conversation import MASK_REQUEST, asks_for_mask, with_mask_request
from utils.reports.answer_files import describe, save_answer

if TYPE_CHECKING:
    from model.inference.encoded_image import EncodedImage

LEAVE = ("quit", "exit", "q", "/quit", "/exit")
HINT = (
    "Hint:    the question did not ask for a segmentation mask. End it, as the evaluation does, "
    f"with '{MASK_REQUEST}', or start with --ask_for_mask."
)
WELCOME = "Ask about an image. Another image: /image PATH. Leave: quit (or end of file)."
HOW_TO_GET_MASKS = f"For a mask, end a question with: {MASK_REQUEST} (--ask_for_mask does it)"


@dataclass
class Shown:
    """The image that is asked about.

    Args:
        source: path or URL.
        pixels: uint8[H, W, 3], RGB.
        opened: what the model made of it, kept from one question to the next (`Reader.open`).
    """

    source: str
    pixels: np.ndarray
    opened: EncodedImage


@dataclass
class Demo:
    """Answers questions and saves what it shows.

    Args:
        reader: `model.inference.reader.Reader`.
        options: where and how to save.
        read_line: shows a text and returns the line typed; raises EOFError at the end.
        write: prints a line.
    """

    reader: Any
    options: DemoOptions
    read_line: Callable[[str], str]
    write: Callable[[str], None]

    def answer(self, shown: Shown, question: str) -> None:
        """Ask one question, print the answer and the files that show it.

        Raises:
            InputError: the question cannot be asked, or the files cannot be written.
        """
        if self.options.ask_for_mask:
            question = with_mask_request(question)
        answer = self.reader.segment(
            shown.opened,
            question,
            max_new_tokens=self.options.max_new_tokens,
            force_seg=self.options.force_seg,
        )
        self.write(describe(answer))
        if not answer.present and not asks_for_mask(question):
            self.write(HINT)
        files = save_answer(
            self.options.vis_save_dir,
            Path(urlparse(shown.source).path).stem or "image",
            shown.pixels,
            question,
            answer,
            self.options.output_format,
        )
        for file in files:
            self.write(f"         {file}")

    def chat(self) -> None:
        """Ask for an image, then for questions about it, until `quit` or the end of input."""
        self.write(WELCOME)
        if not self.options.ask_for_mask:
            self.write(HOW_TO_GET_MASKS)
        source, shown = self.options.image, None
        try:
            while True:
                if shown is None:
                    shown = self._open(source or self._line("Image (path or URL): "))
                    source = None
                    continue
                question = self._line("Question: ")
                command, _, rest = question.partition(" ")
                if command == "/image":
                    source, shown = rest.strip() or None, None
                else:
                    self._try(shown, question)
        except EOFError:
            self.write("")

    def _line(self, text: str) -> str:
        """The next line that is not empty; EOFError to leave."""
        while True:
            line = self.read_line(text).strip()
            if line.lower() in LEAVE:
                raise EOFError
            if line:
                return line

    def _open(self, source: str) -> Shown | None:
        from model.inference.reader import load_pixels

        try:
            image = load_pixels(source.strip("'\""))
        except InputError as error:
            self.write(f"error: {error}")
            return None
        self.write(f"{source}: {image.shape[1]} x {image.shape[0]} pixels")
        return Shown(source, image, self.reader.open(image))

    def _try(self, shown: Shown, question: str) -> None:
        try:
            self.answer(shown, question)
        except InputError as error:
            self.write(f"error: {error}")


@cli
def main(argv: list[str] | None = None) -> None:
    options = parse(DemoOptions, argv, prog="demo.py", show=False)
    check_models(options.pretrained_model_path, options.vision_tower)
    from model.inference.reader import load_pixels
    from model.loading.from_options import load_from_options

    if options.web:
        from web.serving import serve

        serve(load_from_options(options), options)
        return
    if options.image is None or options.prompt is None:
        Demo(load_from_options(options), options, input, print).chat()
        return
    image, reader = load_pixels(options.image), load_from_options(options)
    shown = Shown(options.image, image, reader.open(image))
    Demo(reader, options, input, print).answer(shown, options.prompt)


if __name__ == "__main__":
    sys.exit(main())
