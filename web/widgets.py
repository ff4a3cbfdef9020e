"""Pieces of HTML that the page shows. What visitors and the model say is escaped."""

from __future__ import annotations

import html

from utils.errors import InputError
from utils.protocol.conversation import asks_for_mask
from utils.reports.answer_files import summary
from web.session import Session

WAITING = "Open an image and ask about it."
NO_DIALOGUE = "Questions and answers. Another question reuses what is known already."
PENDING = "\N{HORIZONTAL ELLIPSIS}"
FILES = {"mask.png": "Mask (PNG)", "mask_rle.json": "COCO RLE", "polygons.json": "Polygons"}
"""Names as in `web.export`, and what is said of them."""


def dialogue(turns: list[tuple[str, str]]) -> str:
    """Questions and answers in turn, as text: no part of them is taken for HTML or Markdown."""
    paragraphs = "".join(
        f'<p class="{role}">{html.escape(text)}</p>'
        for pair in turns
        for role, text in zip(("question", "answer"), pair, strict=True)
    )
    return f'<div role="log" aria-live="polite">{paragraphs or note(NO_DIALOGUE)}</div>'


def note(text: str) -> str:
    """What is to be done next."""
    return f'<p class="note">{html.escape(text)}</p>'


def error_message(error: InputError) -> str:
    """What was refused, and the remedy."""
    return f'<p class="error" role="alert">{html.escape(str(error))}</p>'


def answer_status(session: Session) -> str:
    """See, Say, Segment of the session's answer."""
    if session.answer is None:
        return note(WAITING)
    shown = answer_summary(*summary(session.answer), kind="yes" if session.answer.present else "no")
    return shown + note(hint) if (hint := _hint(session)) else shown


def _hint(session: Session) -> str:
    """What to try where there is no mask and none was asked for."""
    question = session.dialogue[-1][0] if session.dialogue else ""
    if session.answer is None or session.answer.present or asks_for_mask(question):
        return ""
    return 'No segmentation mask was asked for. Tick "Ask for a mask" and try again.'


def answer_summary(see: str, say: str, segment: str = PENDING, kind: str = "") -> str:
    """See, Say, Segment.

    Args:
        see, say, segment: their texts.
        kind: "yes" or "no" once it is known.
    """
    see, say, segment = (html.escape(text) for text in (see, say, segment))
    return (
        f'<dl class="{kind}"><dt>See</dt><dd>{see}</dd><dt>Say</dt><dd>{say}</dd>'
        f"<dt>Segment</dt><dd>{segment}</dd></dl>"
    )


def links(token: str) -> str:
    """Links to the files of the session with this token."""
    anchors = [
        f'<a href="download/{token}/{name}" download="{name}">{shown}</a>'
        for name, shown in FILES.items()
    ]
    return f"<span>Download</span>{''.join(anchors)}"
