"""Ask READ about a picture: a chat in the terminal, one question (`--image --prompt`), or a page
in the browser (`--web`).

See: is the object there? Say: the model's words. Segment: mask, overlay with the points, and the
similarity map, as files. The model is imported once the flags are read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from utils.answers import describe, save_answer
from utils.config import parse
from utils.errors import InputError, cli
from utils.hub import check_models
from utils.options import DemoOptions

LEAVE = ("quit", "exit", "q", "/quit", "/exit")
WELCOME = "Ask about a picture. Another picture: /image PATH. Leave: quit (or end of file)."


@dataclass
class Demo:
    """Answers questions and saves what it shows.

    Args:
        reader: `model.reader.Reader`.
        options: where and how to save.
        read_line: shows a text and returns the line typed; raises EOFError at the end.
        say: prints.
    """

    reader: Any
    options: DemoOptions
    read_line: Callable[[str], str]
    say: Callable[[str], None]

    def answer(self, source: str, image: np.ndarray, question: str) -> None:
        """Ask one question, print the answer and the files that show it.

        Raises:
            InputError: the question cannot be asked, or the files cannot be written.
        """
        answer = self.reader.segment(
            image,
            question,
            max_new_tokens=self.options.max_new_tokens,
            force_seg=self.options.force_seg,
        )
        self.say(describe(answer))
        files = save_answer(
            self.options.vis_save_dir,
            Path(urlparse(source).path).stem or "picture",
            image,
            question,
            answer,
            self.options.output_format,
        )
        for file in files:
            self.say(f"         {file}")

    def chat(self) -> None:
        """Ask for a picture, then for questions about it, until `quit` or the end of input."""
        self.say(WELCOME)
        source, image = self.options.image, None
        try:
            while True:
                if image is None:
                    source = source or self._line("Picture (path or URL): ")
                    image = self._open(source)
                    if image is None:
                        source = None
                    continue
                question = self._line("Question: ")
                command, _, rest = question.partition(" ")
                if command == "/image":
                    source, image = rest.strip() or None, None
                else:
                    self._try(source, image, question)
        except EOFError:
            self.say("")

    def _line(self, text: str) -> str:
        """The next line that is not empty; EOFError to leave."""
        while True:
            line = self.read_line(text).strip()
            if line.lower() in LEAVE:
                raise EOFError
            if line:
                return line

    def _open(self, source: str) -> np.ndarray | None:
        from model.reader import load_pixels

        try:
            image = load_pixels(source.strip("'\""))
        except InputError as error:
            self.say(f"error: {error}")
            return None
        self.say(f"{source}: {image.shape[1]} x {image.shape[0]} pixels")
        return image

    def _try(self, source: str | None, image: np.ndarray, question: str) -> None:
        try:
            self.answer(source or "", image, question)
        except InputError as error:
            self.say(f"error: {error}")


@cli
def main(argv: list[str] | None = None) -> None:
    options = parse(DemoOptions, argv, prog="demo.py", show=False)
    check_models(options.pretrained_model_path, options.vision_tower)
    from model.opening import open_reader
    from model.reader import load_pixels

    if options.web:
        from web.serving import serve

        serve(open_reader(options), options)
        return
    if options.image is None or options.prompt is None:
        Demo(open_reader(options), options, input, print).chat()
        return
    image = load_pixels(options.image)
    demo = Demo(open_reader(options), options, input, print)
    demo.answer(options.image, image, options.prompt)


if __name__ == "__main__":
    sys.exit(main())
