"""Which answers about unseen images a report shows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from utils.evaluation.evaluator import Predict, records_of
from utils.protocol.batch import EvalItem
from utils.reports.page import Example, example_of


def pick_questions(
    items: Sequence[EvalItem], count: int, absent_every: int = 4
) -> list[tuple[EvalItem, int]]:
    """Which questions to show: by chance alone, so that no good answer is picked by hand.

    Args:
        items: images with their questions; any length.
        count: how many to show.
        absent_every: every so many, a question about something that is not there, if there is one.

    Returns:
        (item, number of the question) pairs; the same ones every time.
    """
    chosen = random.Random(0).sample(range(len(items)), min(count, len(items)))
    picked = []
    for place, index in enumerate(chosen, start=1):
        item = items[index]
        absent = [n for n, question in enumerate(item.questions) if not question.exists]
        picked.append((item, absent[0] if absent and place % absent_every == 0 else 0))
    return picked


def answer_examples(predict: Predict, items: Sequence[EvalItem], count: int = 10) -> list[Example]:
    """Ask `count` questions about unseen images and draw the answers.

    Args:
        predict: see `utils.evaluation.evaluator`; its answers are `model.inference.reader.Answer`s.
        items: images that the model has not seen.
        count: number of examples.
    """
    examples = []
    for item, number_of in pick_questions(items, count):
        question = item.questions[number_of]
        alone = EvalItem(item.image_path, item.image, [question])
        answers = predict(item.image, [question.text])
        (record,) = records_of(0, alone, answers)
        examples.append(
            example_of(
                item.image,
                question.text,
                answers[0],
                question.truth,
                question.exists,
                record.iou,
            )
        )
    return examples
