"""Many questions at once give what each gives alone; memory, order, errors and repeated work."""

import itertools
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import model.inference.prefix_cache
import model.inference.scheduler
from model import Answer, Reader, load_read
from tests.model.babble import QUESTIONS, babbling, images
from tests.reference.inference import PlainAnswer, ask_plainly
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.stopwatch import Stopwatch

LENGTH = 10
FORMATS = [("llava_v1", True), ("llava_v1", False), ("llava_llama_2", True)]
GIVEN = "Two: [SEG] and [SEG]."


@pytest.fixture
def babbler(small_folder) -> Reader:
    """A reader of its own, whose answers differ."""
    return babbling(load_read(small_folder))


@pytest.fixture(scope="module")
def items() -> list[tuple[np.ndarray, list[str]]]:
    """Five images of other sizes with 4, 1, no, 3 and 5 questions of other lengths."""
    chosen = [QUESTIONS[:4], QUESTIONS[4:5], [], QUESTIONS[1:4], QUESTIONS[2:7]]
    return list(zip(images(5), chosen, strict=True))


def plainly(reader: Reader, items, answer: str | None = None) -> list[PlainAnswer]:
    return [
        ask_plainly(reader, image, question, LENGTH, answer)
        for image, questions in items
        for question in questions
    ]


@pytest.fixture(scope="module")
def expected(small_folder, items) -> list[PlainAnswer]:
    """The answers of the usual format, each question asked alone."""
    return plainly(babbling(load_read(small_folder)), items)


def check_same(answers: list[Answer], expected: list[PlainAnswer]) -> None:
    assert len(answers) == len(expected)
    for answer, plain in zip(answers, expected, strict=True):
        assert answer.token_ids == plain.token_ids
        assert [segment.token_index for segment in answer.segments] == plain.seg_index
        assert answer.present == plain.present
        assert np.array_equal(answer.mask, (plain.logits > 0).any(axis=0))
        for segment, logits in zip(answer.segments, plain.logits, strict=True):
            assert np.abs(segment.logits - logits).max() <= 1e-4


# --- the same answers -----------------------------------------------------------------------


def test_the_questions_differ_as_they_should(expected):
    assert {len(plain.seg_index) for plain in expected} >= {0, 1, 2}
    assert len({len(plain.token_ids) for plain in expected}) >= 3
    assert max(len(plain.token_ids) for plain in expected) == LENGTH
    assert {plain.present for plain in expected} == {True, False}


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16])
def test_answers_are_those_of_each_question_alone(babbler, items, expected, rows):
    answers = babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=rows)
    check_same(answers, expected)


@pytest.mark.parametrize(("conv_type", "wrapped"), FORMATS)
@pytest.mark.parametrize("answer", [None, GIVEN])
def test_every_format_of_prompts(babbler, items, conv_type, wrapped, answer):
    babbler.model.config.conv_type = conv_type
    babbler.model.config.mm_use_im_start_end = wrapped
    few = [items[1], items[3]]
    answers = babbler.segment_batch(few, answer=answer, max_new_tokens=LENGTH, batch_questions=3)
    check_same(answers, plainly(babbler, few, answer))


def test_a_small_cache_grows(babbler, items, expected, monkeypatch):
    monkeypatch.setattr(model.inference.prefix_cache, "CHUNK", 3)
    check_same(babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4), expected)


def test_other_attention_gives_the_same(small_folder, items, expected):
    reader = babbling(load_read(small_folder, attn_implementation="eager"))
    check_same(reader.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4), expected)
    assert reader.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_short_number_formats(small_folder, items, expected, dtype):
    """Not the same answers, but as many, and masks of the same kind."""
    reader = babbling(load_read(small_folder, dtype=dtype))
    answers = reader.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4)
    assert len(answers) == len(expected)
    assert sum(a.token_ids[0] == e.token_ids[0] for a, e in zip(answers, expected, strict=True)) > 9
    segments = [segment for answer in answers for segment in answer.segments]
    assert segments
    assert all(segment.logits.dtype == np.float32 for segment in segments)
    assert all(np.isfinite(segment.logits).all() for segment in segments)


def test_readers_in_several_threads(babbler, items, expected):
    """As a web page has them."""
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(babbler.segment_batch, items, max_new_tokens=LENGTH) for _ in range(3)]
    for future in asked:
        check_same(future.result(), expected)


def test_force_seg_adds_masks_only_where_there_are_none(babbler, items, expected):
    answers = babbler.segment_batch(items, max_new_tokens=LENGTH, force_seg=True, batch_questions=3)
    assert all(answer.segments for answer in answers)
    questions = [(image, question) for image, asked in items for question in asked]
    for (image, question), answer, plain in zip(questions, answers, expected, strict=True):
        if plain.seg_index:
            check_same([answer], [plain])
        else:
            assert answer.text.endswith(POSITIVE_ANSWER)
            given = babbler.segment(image, question, answer=answer.text)
            assert answer.token_ids == given.token_ids
            assert np.abs(answer.segments[0].logits - given.segments[0].logits).max() <= 1e-4


# --- work done once -------------------------------------------------------------------------


def shapes_of_calls(module: torch.nn.Module, name: str = "inputs_embeds") -> list[torch.Size]:
    """Shapes of that argument, or of the first one, in every call from now on."""
    shapes = []

    def note(_, given, named):
        shapes.append((named[name] if name in named else given[0]).shape)

    module.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


def test_each_part_runs_once_for_an_image(babbler, items, expected):
    read = babbler.model.model
    language = shapes_of_calls(read)
    clip = shapes_of_calls(read.vision_tower)
    sam = shapes_of_calls(read.visual_model.image_encoder)
    masks = shapes_of_calls(read.visual_model.mask_decoder.transformer)
    answers = babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4)
    assert len(clip) == 4
    assert sum(shape[1] > babbler.model.image_tokens for shape in language) == 4
    bounds = [0, *itertools.accumulate(len(questions) for _, questions in items)]
    counts = [
        sum(len(answer.segments) for answer in answers[first:end])
        for first, end in itertools.pairwise(bounds)
    ]
    shown = [count for count in counts if count]
    assert 0 < len(shown) == len(sam) < 5
    assert [shape[0] for shape in masks] == shown


def test_free_rows_are_taken_by_waiting_questions(babbler, items, expected):
    language = shapes_of_calls(babbler.model.model)
    babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=4)
    steps = [shape[0] for shape in language if shape[1] == 1]
    assert max(steps) == 4
    # Every token but the first of each answer takes one row of one step: no row idles on.
    assert sum(steps) == sum(len(plain.token_ids) - 1 for plain in expected)
    assert len(steps) < sum(
        max(len(plain.token_ids) - 1 for plain in expected[first : first + 4])
        for first in range(0, len(expected), 4)
    )


# --- streams --------------------------------------------------------------------------------


def test_a_stream_takes_items_when_it_needs_them(babbler):
    (image,) = images(1)
    taken = itertools.count()
    endless = ((image, [f"Question {n}?"]) for n in taken)
    stream = babbler.stream(endless, max_new_tokens=2, batch_questions=2)
    handed = [next(stream) for _ in range(12)]
    assert all(len(answers) == 1 for answers in handed)
    assert next(taken) <= 12 + 4 * 2 + 2
    stream.close()
    assert not any(thread.name.startswith("images") for thread in threading.enumerate())


def test_a_long_answer_holds_back_later_ones_within_the_window(babbler):
    """The first answer takes 40 steps, all others one: they wait, and not too many of them."""
    (image,) = images(1)
    taken = itertools.count()
    endless = ((image, [QUESTIONS[0] if n == 0 else QUESTIONS[1]]) for n in taken)
    given = babbler.segment(image, QUESTIONS[0], max_new_tokens=40)
    assert len(given.token_ids) == 40
    stream = babbler.stream(endless, max_new_tokens=40, batch_questions=2)
    assert next(stream)[0].token_ids == given.token_ids
    assert next(taken) <= 4 * 2 + 1
    stream.close()


def test_one_list_for_each_item(babbler, items):
    lists = list(babbler.stream(iter(items), max_new_tokens=2, batch_questions=3))
    assert [len(answers) for answers in lists] == [4, 1, 0, 3, 5]
    assert [a.mask.shape for answers in lists for a in answers[:1]] == [
        image.shape[:2] for image, questions in items if questions
    ]
    assert list(babbler.stream([])) == []
    assert babbler.segment_batch([]) == []


def test_images_are_read_beside_the_work(babbler, items, monkeypatch):
    readers = []
    load = model.inference.scheduler.load_views

    def noted(image, views):
        readers.append(threading.current_thread())
        return load(image, views)

    monkeypatch.setattr(model.inference.scheduler, "load_views", noted)
    babbler.segment_batch(items, max_new_tokens=1)
    assert len(readers) == 4 and threading.main_thread() not in readers


def test_a_broken_image_stops_after_those_before_it(babbler, items, tmp_path):
    given = [*items[:2], (tmp_path / "lost.png", ["Where?"]), *items[3:]]
    stream = babbler.stream(given, max_new_tokens=LENGTH, batch_questions=16)
    assert [len(next(stream)), len(next(stream))] == [4, 1]
    with pytest.raises(InputError, match=r"lost\.png"):
        next(stream)
    assert len(babbler.segment_batch(items, max_new_tokens=2)) == 13


def test_a_broken_source_or_question_stops_after_those_before_it(babbler, items):
    def source():
        yield items[1]
        raise InputError("the annotation is broken")

    stream = babbler.stream(source(), max_new_tokens=3)
    assert len(next(stream)) == 1
    with pytest.raises(InputError, match="annotation"):
        next(stream)

    stream = babbler.stream([items[1], (items[0][0], ["Where?", " "])], max_new_tokens=3)
    assert len(next(stream)) == 1
    with pytest.raises(InputError, match="expected a sentence"):
        next(stream)


def test_a_stream_that_is_left_puts_the_training_mode_back(babbler, items):
    babbler.model.train()
    stream = babbler.stream(items, max_new_tokens=2)
    next(stream)
    assert not babbler.model.training
    stream.close()
    assert babbler.model.training


def test_unusable_settings(babbler):
    with pytest.raises(InputError, match="batch_questions is 0"):
        babbler.stream([], batch_questions=0)


# --- memory ---------------------------------------------------------------------------------


def fail_above(owner, name: str, rows: int, size, monkeypatch, error=None) -> list[int]:
    """Let a method run out of memory above that many rows; returns the sizes of all its calls."""
    work, sizes = getattr(owner, name), []

    def limited(*args, **kwargs):
        sizes.append(size(*args, **kwargs))
        if sizes[-1] > rows:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        return work(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)
    return sizes


def limit_language(babbler, rows, monkeypatch, error=None):
    def size(*args, inputs_embeds, **kwargs):
        return len(inputs_embeds)

    return fail_above(babbler.model.model, "forward", rows, size, monkeypatch, error)


@pytest.mark.parametrize(
    "error", [None, RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_out_of_memory_halves_the_rows_and_goes_on(babbler, items, expected, monkeypatch, error):
    sizes = limit_language(babbler, 3, monkeypatch, error)
    with pytest.warns(RuntimeWarning, match="out of memory with 16") as told:
        answers = babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=16)
    check_same(answers, expected)
    assert len([w for w in told if "out of memory" in str(w.message)]) == 1
    assert sum(size > 3 for size in sizes) == 3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=16)
    check_same(again, expected)
    assert sum(size > 3 for size in sizes) == 3


@pytest.mark.slow
def test_out_of_memory_in_the_middle_of_answers(babbler, items, expected, monkeypatch):
    """Memory gets short once, at one call of the language model after another."""
    for fatal in itertools.count(1, 3):
        calls = itertools.count(1)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fail_above(
                babbler.model.model,
                "forward",
                0,
                lambda *_, calls=calls, fatal=fatal, **__: next(calls) == fatal,
                patch,
            )
            reader = Reader(babbler.model, babbler.tokenizer)
            answers = reader.segment_batch(items, max_new_tokens=LENGTH, batch_questions=5)
        check_same(answers, expected)
        if next(calls) <= fatal:
            break
    assert fatal > 15


def test_out_of_memory_in_the_masks(babbler, items, expected, monkeypatch):
    sizes = fail_above(
        babbler.model,
        "predict_masks",
        2,
        lambda _, queries: len(queries[0].seg_state),
        monkeypatch,
    )
    with pytest.warns(RuntimeWarning, match="out of memory"):
        answers = babbler.segment_batch(items, max_new_tokens=LENGTH, batch_questions=8)
    check_same(answers, expected)
    assert max(sizes) > 2


def test_too_little_memory_for_one_question(babbler, items, monkeypatch):
    limit_language(babbler, 0, monkeypatch)
    with pytest.warns(RuntimeWarning), pytest.raises(InputError, match="one question at a time"):
        babbler.segment_batch(items, max_new_tokens=2)


def test_other_errors_are_not_taken_for_it(babbler, items, monkeypatch):
    limit_language(babbler, 0, monkeypatch, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="do not fit"):
        babbler.segment_batch(items, max_new_tokens=2)


def test_a_kept_segment_keeps_no_other(babbler, items):
    (answer, *_) = babbler.segment_batch(items[:1], answer=GIVEN)
    for segment in answer.segments:
        for array in (segment.logits, segment.mask, segment.similarity, segment.points):
            assert array.base is None or array.base.nbytes == array.nbytes


# --- on the side ----------------------------------------------------------------------------


def test_stages_are_measured(babbler, items):
    babbler.timer = Stopwatch()
    babbler.segment_batch(items, max_new_tokens=3)
    assert set(babbler.timer.seconds) == {
        "read images (thread)",
        "wait for images",
        "clip",
        "shared prefix",
        "prefill",
        "decode",
        "sam encoder",
        "masks",
    }


@pytest.mark.slow
def test_compiled_parts_give_the_same(babbler, items, expected):
    before = list(babbler.model.state_dict())
    babbler.compile(backend="eager")
    check_same(babbler.segment_batch(items, max_new_tokens=LENGTH), expected)
    assert list(babbler.model.state_dict()) == before
    torch._dynamo.reset()
