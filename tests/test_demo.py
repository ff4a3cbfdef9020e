"""The demo with a stand-in for the model: one shot and chat, good input and bad."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import demo
from model import load_read
from tests.model.babble import QUESTIONS, babbling, images
from tests.small_read import write_small_read
from utils.cli.parser import REPOSITORY
from utils.errors import InputError
from utils.evaluation.predictions import decode_mask
from utils.protocol.conversation import MASK_REQUEST


class FakeReader:
    """Sees the upper half of every image, but no unicorn."""

    def __init__(self):
        self.asked = []

    def open(self, image):
        return image

    def segment(self, image, question, max_new_tokens=512, force_seg=False):
        self.asked.append(question)
        if question == "?":
            raise InputError("the question '?' is no question")
        mask = np.zeros(image.shape[:2], bool)
        if "unicorn" in question and not force_seg:
            reason = "no [SEG] in the answer"
            text = "Sorry, there is no unicorn."
            return SimpleNamespace(text=text, present=False, reason=reason, segments=[], mask=mask)
        mask[: len(mask) // 2] = True
        segment = SimpleNamespace(
            mask=mask,
            score=0.9,
            similarity=np.eye(4, dtype=np.float32),
            points=np.array([[3.0, 2.0], [10.0, 18.0]], np.float32),
            point_labels=np.array([1, 0]),
        )
        text = "Sure, the segmentation result is [SEG]."
        return SimpleNamespace(text=text, present=True, reason=None, segments=[segment], mask=mask)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    """A checkpoint as this project writes it."""
    return write_small_read(tmp_path_factory.mktemp("small") / "read")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "an image.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `demo.py` with a model folder that passes the checks; returns (exit code, out, err)."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    reader = FakeReader()
    monkeypatch.setattr("model.loading.from_options.load_from_options", lambda options: reader)

    def start(*arguments, typed=()):
        lines = iter(typed)

        def read_line(text):
            try:
                return next(lines)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read_line)
        given = ["--pretrained_model_path", str(model), "--vis_save_dir", str(tmp_path / "out")]
        try:
            code = demo.main([*given, *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    start.reader = reader
    start.out = tmp_path / "out"
    return start


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_one_shot(run, image):
    code, out, _ = run("--image", image, "--prompt", "the sky")
    assert code == 0
    assert "See:     yes" in out and "Say:     Sure" in out and "300 pixels (50.0 %)" in out
    kinds = ("mask", "overlay", "sheet", "similarity")
    assert names(run.out) == [f"an image_1_{kind}.png" for kind in kinds]
    mask = np.asarray(Image.open(run.out / "an image_1_mask.png"))
    assert mask.shape == (20, 30) and (mask[:10] == 255).all() and (mask[10:] == 0).all()


def test_a_second_answer_overwrites_nothing(run, image):
    for _ in range(2):
        run("--image", image, "--prompt", "the sky")
    assert len(names(run.out)) == 8


@pytest.mark.parametrize("form", ["rle", "json"])
def test_other_forms_of_the_mask(run, image, form):
    run("--image", image, "--prompt", "the sky", "--output_format", form)
    (path,) = run.out.glob("*.json")
    data = json.loads(path.read_text())
    mask = decode_mask(data if form == "rle" else data["segments"][0]["mask"])
    assert mask[:10].all() and not mask[10:].any()
    if form == "json":
        assert data["segments"][0]["points"] == [[3.0, 2.0], [10.0, 18.0]]
    assert not list(run.out.glob("*_mask.png"))


def test_what_is_absent_is_said_and_not_drawn(run, image):
    code, out, _ = run("--image", image, "--prompt", "the unicorn")
    assert code == 0
    assert "See:     no (no [SEG] in the answer)" in out and "Say:     Sorry" in out
    assert names(run.out) == []
    _, out, _ = run("--image", image, "--prompt", "the unicorn", "--force_seg")
    assert "See:     yes" in out


def test_the_request_for_a_mask_is_offered_and_added_on_demand(run, image):
    one = ("--image", image, "--prompt")
    _, out, _ = run(*one, "the unicorn")
    assert "--ask_for_mask" in out and f"'{MASK_REQUEST}'" in out
    assert run.reader.asked == ["the unicorn"]
    for given, flags in ((f"the unicorn {MASK_REQUEST}", ()), ("the unicorn", ["--ask_for_mask"])):
        run.reader.asked.clear()
        _, out, _ = run(*one, given, *flags)
        assert run.reader.asked == [f"the unicorn {MASK_REQUEST}"]
        assert "See:     no" in out and "--ask_for_mask" not in out
    _, out, _ = run(*one, "the sky")
    assert "See:     yes" in out and "--ask_for_mask" not in out


def test_the_chat_tells_how_to_ask_for_a_mask(run, image):
    _, out, _ = run("--image", image, typed=["the sky"])
    assert MASK_REQUEST in out and run.reader.asked == ["the sky"]
    _, out, _ = run("--image", image, "--ask_for_mask", typed=["the ground"])
    assert MASK_REQUEST not in out and run.reader.asked[1:] == [f"the ground {MASK_REQUEST}"]


@pytest.mark.slow
def test_half_a_character_on_the_command_line_is_told(image, tmp_path):
    """A byte that is not UTF-8 comes out of `sys.argv` as a lone surrogate."""
    model = write_small_read(tmp_path / "read")
    command = [sys.executable, "demo.py", "--pretrained_model_path", model, "--image", image]
    for question in (b"a \xff cat", b"a cat \xed\xa0\xbd"):
        ended = subprocess.run(
            [*command, "--prompt", question], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert ended.returncode == 2 and "Traceback" not in ended.stderr
        assert "lone surrogate" in ended.stderr and r"\udc" in ended.stderr


def test_bad_arguments_leave_with_the_remedy(run, tmp_path):
    code, _, err = run("--image", tmp_path / "none.jpg", "--prompt", "x", "--lod_in_4bit")
    assert code == 2
    assert "none.jpg" in err and "--lod_in_4bit" in err and "load_in_4bit" in err
    assert "Traceback" not in err
    code, _, err = run("--prompt", "the sky")
    assert code == 2 and "--image" in err


def test_a_broken_image_leaves_with_its_path(run, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    code, _, err = run("--image", tmp_path / "broken.jpg", "--prompt", "the sky")
    assert code == 2 and "broken.jpg" in err and "Traceback" not in err


def test_chat_survives_mistakes(run, image, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    typed = [
        str(tmp_path / "none.jpg"),
        str(tmp_path / "broken.jpg"),
        "",
        f'"{image}"',
        "the sky",
        "?",
        "/image nowhere.png",
        str(image),
        "the ground",
        "quit",
        "never asked",
    ]
    code, out, _ = run(typed=typed)
    assert code == 0
    assert run.reader.asked == ["the sky", "?", "the ground"]
    assert out.count("error: ") == 4
    assert "none.jpg" in out and "broken.jpg" in out and "nowhere.png" in out
    assert "30 x 20 pixels" in out and out.count("See:     yes") == 2


def test_chat_about_a_given_image_ends_with_the_input(run, image):
    code, out, _ = run("--image", image, typed=["the sky"])
    assert code == 0 and run.reader.asked == ["the sky"]


def test_a_chat_encodes_an_image_once(run, small_folder, monkeypatch, tmp_path):
    """With a real reader; another image is encoded anew. Answers equal those of a fresh reader."""
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, pixels in zip(paths, images(2), strict=True):
        Image.fromarray(pixels).save(path)
    reader = babbling(load_read(small_folder, device="cpu"))
    monkeypatch.setattr("model.loading.from_options.load_from_options", lambda options: reader)
    core, encoded = reader.model.model, []
    core.vision_tower.register_forward_pre_hook(lambda *_: encoded.append("clip"))
    core.visual_model.image_encoder.register_forward_pre_hook(lambda *_: encoded.append("sam"))
    asked = [(0, QUESTIONS[0]), (0, QUESTIONS[1]), (0, QUESTIONS[2])]
    asked += [(1, QUESTIONS[0]), (1, QUESTIONS[3]), (0, QUESTIONS[0])]
    typed = [q for _, q in asked]
    typed[5:5], typed[3:3] = [f"/image {paths[0]}"], [f"/image {paths[1]}"]
    form = ("--output_format", "json", "--max_new_tokens", 6, "--force_seg")
    code, out, err = run("--image", paths[0], *form, typed=typed)
    assert code == 0 and out.count("Say: ") == len(asked), err
    assert encoded == ["clip", "sam"] * 3

    fresh, files = babbling(load_read(small_folder, device="cpu")), {0: 0, 1: 0}
    for number, question in asked:
        image = images(2)[number]
        answer = fresh.segment(image, question, max_new_tokens=6, force_seg=True)
        files[number] += 1
        file = run.out / f"{paths[number].stem}_{files[number]}_answer.json"
        found = json.loads(file.read_text())
        assert (found["question"], found["answer"]) == (question, answer.text)
        assert len(found["segments"]) == len(answer.segments) > 0
        for kept, segment in zip(found["segments"], answer.segments, strict=True):
            assert np.array_equal(decode_mask(kept["mask"]), segment.mask)


def test_a_folder_that_cannot_be_written_is_named(run, image, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "out"
    code, _, err = run("--image", image, "--prompt", "the sky", "--vis_save_dir", blocked)
    assert code == 2 and str(blocked) in err and "Traceback" not in err


def test_a_page_is_served_with_the_same_reader(run, monkeypatch):
    served = []
    monkeypatch.setattr("web.serving.serve", lambda *given: served.append(given))
    code, _, _ = run("--web", "--port", "0", "--max_megapixels", "3")
    ((reader, options),) = served
    assert code == 0 and reader is run.reader and options.port == 0
    assert options.host == "127.0.0.1" and options.max_megapixels == 3


@pytest.mark.parametrize(
    ("gradio", "wanted"), [("none", True), ("5.49.1", True), ("6.0.0", False), ("6.31.0", False)]
)
def test_a_page_without_gradio_names_the_remedy(run, monkeypatch, gradio, wanted):
    monkeypatch.setattr("web.serving.serve", lambda *given: None)
    found = None if gradio == "none" else "found"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    monkeypatch.setattr("importlib.metadata.version", lambda name: gradio)
    code, _, err = run("--web")
    assert (code == 2) == wanted
    assert ("pip install -r requirements-web.txt" in err and gradio in err) == wanted


def test_bad_flags_of_the_page_are_told_together(run, image):
    code, _, err = run(
        "--web", "--image", image, "--port", "99999", "--max_visitors", "0", "--max_megapixels", 0
    )
    assert code == 2
    for part in ("excludes --image", "--port=99999", "--max_visitors=0", "--max_megapixels=0"):
        assert part in err
