"""The page: what stands where, and what happens on a click. Needs gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from model.sasp import SaspParams
from utils.errors import InputError
from utils.protocol.constants import PROMPTS
from utils.protocol.conversation import MASK_REQUEST
from utils.reports.visualize import encode_png
from web import widgets
from web.drawing import colour_name
from web.session import MODES, SET_ASIDE, Session
from web.sessions import Sessions
from web.uploads import Uploads

TITLE = "READ: reasoning to attend"
INTRODUCTION = (
    "Ask about an image in a sentence, and get an answer in words and a mask. The similarity of "
    "<code>[SEG]</code> to the image says where to look; its high and low places become points "
    "for SAM."
)
EXAMPLES = ("Which object can roll?", "Where is the green triangle?", "What is red and round?")
STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "-apple-system", "Segoe UI", "Liberation Sans", "sans-serif"),
    font_mono=("ui-monospace", "Liberation Mono", "monospace"),
)
SETTINGS = (
    "prompt",
    "num_points",
    "down_sample",
    "thresholds",
    "t_pos",
    "t_neg",
    "std_factor",
)
Updates = dict[Any, Any]


class Page:
    """The page and its handlers.

    Args:
        sessions: those of the browsers that have the page open.
        uploads: where their files are.
        params: the model's own.
        side: of the model's grid of image tokens.
        force_seg: whether a mask is asked for even when the model answers without one.
    """

    def __init__(
        self,
        sessions: Sessions,
        uploads: Uploads,
        params: SaspParams,
        side: int,
        force_seg: bool = False,
    ):
        self.sessions = sessions
        self.uploads = uploads
        self.blocks = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600))
        with self.blocks:
            gr.HTML(f"<h1>{TITLE}</h1><p>{INTRODUCTION}</p>", elem_id="head", padding=False)
            with gr.Row(equal_height=False, elem_id="main"):
                with gr.Column(scale=5, min_width=320):
                    self._ask_part(force_seg)
                with gr.Column(scale=7, min_width=320):
                    self._answer_part(params, side)
            self._connect()

    # --- what stands where ----------------------------------------------------------------------

    def _ask_part(self, force_seg: bool) -> None:
        self.image = gr.Image(
            label="Image",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            buttons=[],
            height=260,
            elem_id="image",
        )
        self.question = gr.Textbox(
            label="Question",
            placeholder="Which part lets the plane steer?",
            info="Enter asks, Shift+Enter starts a new line.",
            lines=1,
            max_lines=6,
            max_length=self.uploads.limits.question,
            submit_btn=False,
            elem_id="question",
        )
        with gr.Row(elem_id="examples"):
            self.examples = [gr.Button(text, size="sm", min_width=150) for text in EXAMPLES]
        self.mask = gr.Checkbox(
            True,
            label="Ask for a mask",
            info=f"Ends the question with \N{LEFT DOUBLE QUOTATION MARK}{MASK_REQUEST}"
            "\N{RIGHT DOUBLE QUOTATION MARK}, as in the evaluation. Without it, the model may "
            "answer in words alone.",
            elem_id="mask",
        )
        with gr.Row(equal_height=True):
            self.force = gr.Checkbox(force_seg, label="Always make a mask", min_width=150)
            self.ask = gr.Button("Ask", variant="primary", min_width=120, elem_id="ask")
        self.status = gr.HTML(widgets.note(widgets.WAITING), elem_id="status", padding=False)
        gr.HTML("<h2>Talk about this image</h2>", elem_id="talk_head", padding=False)
        self.dialogue = gr.HTML(widgets.dialogue([]), elem_id="talk", padding=False)

    def _answer_part(self, params: SaspParams, side: int) -> None:
        gr.HTML("<h2>Mask and points</h2>", padding=False)
        self.overlay = gr.Image(
            label="Mask and points",
            show_label=False,
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="overlay",
        )
        with gr.Row(equal_height=False, elem_id="editing"):
            self.mode = gr.Radio(
                [
                    ("+ point", MODES[0]),
                    ("\N{MINUS SIGN} point", MODES[1]),
                    ("\N{MULTIPLICATION SIGN} remove", MODES[2]),
                ],
                value=MODES[0],
                label="A click on it",
                scale=3,
                min_width=320,
                elem_id="mode",
            )
            with gr.Column(scale=1, min_width=150):
                self.points = gr.Checkbox(True, label="Show points", container=False)
                self.reset = gr.Button("Reset points", size="sm", elem_id="reset")
        with gr.Row(visible=False) as self.layers_row:
            self.shown = gr.CheckboxGroup([], label="Layers", scale=3, elem_id="layers")
            self.chosen = gr.Dropdown([], label="Points and map of", scale=1, min_width=150)
        self.files = gr.HTML("", elem_id="files", padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                gr.HTML("<h2>Similarity of [SEG] to the image</h2>", padding=False)
                self.similarity = gr.Image(
                    label="Similarity of [SEG] to the image",
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="similarity",
                )
            with gr.Column(scale=1, min_width=280, elem_id="sliders"):
                gr.HTML("<h2>From similarity to points</h2>", padding=False)
                self._sliders(params, side)

    def _sliders(self, params: SaspParams, side: int) -> None:
        self.controls: dict[str, Any] = {
            "prompt": gr.Radio(
                [(label, name) for name, label in reversed(PROMPTS.items())],
                value=params.prompt,
                label="Prompt for SAM",
                elem_id="prompt",
            ),
            "thresholds": gr.Radio(
                [("fixed", "fixed"), ("mean \N{PLUS-MINUS SIGN} k std", "std")],
                value=params.thresholds,
                label="Thresholds",
            ),
            "t_pos": gr.Slider(
                0, 1, params.t_pos, step=0.01, label="Positive from", elem_id="t_pos"
            ),
            "t_neg": gr.Slider(0, 1, params.t_neg, step=0.01, label="Negative up to"),
            "std_factor": gr.Slider(0, 3, params.std_factor, step=0.05, label="k of the std"),
            "num_points": gr.Slider(
                1,
                max(100, params.num_points),
                params.num_points,
                step=1,
                label="Points",
                elem_id="num_points",
            ),
            "down_sample": gr.Slider(
                1,
                max(2, side // 2, params.down_sample),
                params.down_sample,
                step=1,
                label="Map reduced by",
            ),
        }

    # --- what happens ---------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = [self.controls[name] for name in SETTINGS]
        drawn = [self.status, self.overlay, self.similarity]
        result = [*drawn, self.dialogue, self.files, self.layers_row, self.shown, self.chosen]
        private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
        model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        masks: dict[str, Any] = {
            "concurrency_id": "masks",
            "concurrency_limit": 4,
            "show_progress": "hidden",
        }
        gr.on(
            [self.image.change],
            self._opened,
            [self.image],
            result,
            show_progress="hidden",
            **private,
        )
        gr.on(
            [self.ask.click, self.question.submit],
            self._asked,
            [self.image, self.question, self.mask, self.force, self.points, *settings],
            result,
            show_progress="minimal",
            show_progress_on=[self.status],
            **private,
            **model,
        )
        gr.on(
            [control.input for control in settings],
            self._set,
            [self.points, *settings],
            drawn,
            trigger_mode="always_last",
            **private,
            **masks,
        )
        self.overlay.select(self._clicked, [self.mode, self.points], drawn, **private, **masks)
        self.reset.click(self._reset, [self.points], drawn, **private, **masks)
        self.points.input(self._drawn, [self.points], drawn, **private, **masks)
        self.shown.input(self._showed, [self.shown, self.points], drawn, **private, **masks)
        self.chosen.input(self._chose, [self.chosen, self.points], drawn, **private, **masks)
        for button, text in zip(self.examples, EXAMPLES, strict=True):
            button.click(None, None, self.question, js=f"() => {text!r}", api_visibility="private")
        self.blocks.unload(self._left)

    def _opened(self, request: gr.Request, image: Any) -> Updates:
        session = None
        try:
            source = self.uploads.path(image)
            if source is None:
                self.sessions.leave(request.session_hash)
                return self._everything(None, widgets.note(widgets.WAITING))
            session = self._enter(request)
            session.open(source)
        except InputError as error:
            return self._everything(session, widgets.error_message(error))
        height, width = session.size
        return self._everything(session, widgets.note(f"{width} x {height} pixels. Ask about it."))

    def _asked(
        self,
        request: gr.Request,
        image: Any,
        question: Any,
        mask: Any,
        force: Any,
        points: Any,
        *settings: Any,
    ) -> Iterator[Updates]:
        try:
            source = self.uploads.path(image)
            if source is None:
                raise InputError("Please open an image first.")
            session = self._enter(request)
            session.open(source)
            for words in session.ask(question, _named(settings), bool(force), bool(mask)):
                pending = (session.pending_question, words or widgets.PENDING)
                yield {
                    self.dialogue: widgets.dialogue([*session.dialogue, pending]),
                    self.status: widgets.answer_summary(widgets.PENDING, words),
                }
        except InputError as error:
            known = self.sessions.find(request.session_hash)
            yield {
                self.status: widgets.error_message(error),
                self.dialogue: widgets.dialogue(known.dialogue if known else []),
            }
            return
        yield self._everything(session, None, bool(points))

    def _set(self, request: gr.Request, points: Any, *settings: Any) -> Updates:
        session = self.sessions.find(request.session_hash)
        if session is None or session.answer is None:
            return {self.status: gr.skip()}
        return self._change(request, points, lambda session: session.set(_named(settings)))

    def _clicked(
        self, request: gr.Request, place: gr.SelectData, mode: Any, points: Any
    ) -> Updates:
        return self._change(request, points, lambda session: session.click(place.index, mode))

    def _reset(self, request: gr.Request, points: Any) -> Updates:
        return self._change(request, points, Session.reset_points)

    def _drawn(self, request: gr.Request, points: Any) -> Updates:
        return self._change(request, points, lambda session: None)

    def _showed(self, request: gr.Request, shown: Any, points: Any) -> Updates:
        return self._change(request, points, lambda session: session.show(shown))

    def _chose(self, request: gr.Request, chosen: Any, points: Any) -> Updates:
        def choose(session: Session) -> None:
            session.choose(chosen)

        return self._change(request, points, choose, similarity=True)

    def _left(self, request: gr.Request) -> None:
        self.sessions.leave(request.session_hash)

    def _enter(self, request: gr.Request) -> Session:
        if not request.session_hash:
            raise InputError("The browser sent no name of its session. Please load the page again.")
        return self.sessions.enter(request.session_hash)

    # --- what is sent back ----------------------------------------------------------------------

    def _change(
        self,
        request: gr.Request,
        points: Any,
        change: Callable[[Session], None],
        similarity: bool = False,
    ) -> Updates:
        """Change the answer and show it."""
        try:
            session = self.sessions.find(request.session_hash)
            if session is None or session.answer is None:
                raise InputError(SET_ASIDE)
            change(session)
        except InputError as error:
            return {self.status: widgets.error_message(error)}
        updates: Updates = {
            self.status: widgets.answer_status(session),
            self.overlay: self._image(session, session.overlay(bool(points))),
        }
        if similarity:
            updates[self.similarity] = self._image(session, session.similarity())
        return updates

    def _everything(
        self, session: Session | None, status: str | None, points: bool = True
    ) -> Updates:
        """All that shows an answer, or that there is none yet."""
        segments, shown = session.layers() if session else ([], [])
        names = [
            (f"{n + 1}: {colour_name(n)}, score {segment.score:.2f}", n)
            for n, segment in enumerate(segments)
        ]
        return {
            self.status: status
            if status is not None or session is None
            else widgets.answer_status(session),
            self.overlay: self._image(session, session.overlay(points)) if session else None,
            self.similarity: self._image(session, session.similarity()) if session else None,
            self.dialogue: widgets.dialogue(session.dialogue if session else []),
            self.files: widgets.links(session.token) if session and segments else "",
            self.layers_row: gr.Row(visible=len(segments) > 1),
            self.shown: gr.CheckboxGroup(choices=names, value=shown),
            self.chosen: gr.Dropdown(
                choices=[(f"layer {n + 1}", n) for n in range(len(segments))],
                value=session.chosen if session and segments else None,
            ),
        }

    def _image(self, session: Session, image: np.ndarray | None) -> str | None:
        if image is None:
            return None
        return str(self.uploads.write(encode_png(image, level=1), session.drawn))


def _named(settings: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(SETTINGS, settings, strict=True))
