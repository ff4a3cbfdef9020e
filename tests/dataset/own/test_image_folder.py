"""A folder of images with questions in its two forms, and what is wrong with one."""

import json

import numpy as np
import pytest
from PIL import Image

from dataset.own.image_folder import ImageFolder
from utils.errors import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / name)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 6:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask * 0).save(tmp_path / "empty.png")
    return tmp_path


def write_table(folder, *entries):
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_table(folder):
    write_table(
        folder,
        {"image": "b.png", "question": "Where is it?", "mask": "mask.png", "kind": "long"},
        {"image": "a.jpg", "question": "Wo ist die Tür?"},
        "",
        {"image": "b.png", "question": "What rolls?", "words": "a wheel", "mask": "empty.png"},
    )
    items = ImageFolder(folder)
    assert len(items) == 2
    first, second = items
    assert first.image_path == str(folder / "b.png") and first.image.shape == (20, 30, 3)
    known, absent = first.questions
    assert (known.text, known.kind, known.exists) == ("Where is it?", "long", True)
    assert known.truth.sum() == 24 and set(np.unique(known.truth)) == {0, 1}
    assert (absent.phrase, absent.exists, absent.truth.max()) == ("a wheel", False, 0)
    (unknown,) = second.questions
    assert unknown.text == "Wo ist die Tür?" and (unknown.truth == 255).all()


def test_texts_beside_images(folder):
    (folder / "a.txt").write_text("Where is it?\n\n  What rolls?  \n", encoding="utf-8")
    (folder / "c.txt").write_text("And here?", encoding="utf-8")
    items = ImageFolder(folder)
    assert [[q.text for q in item.questions] for item in items] == [
        ["Where is it?", "What rolls?"],
        ["And here?"],
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "no JSON object"),
        ({"image": "a.jpg", "question": 3}, "no JSON object of texts"),
        ({"question": "Where?"}, "names no image"),
        ({"image": "a.jpg"}, "None is no question"),
        ({"image": "a.jpg", "question": "Show [SEG] <image>"}, "special tokens"),
        ({"image": "a.jpg", "question": "a cat \ud83d"}, r"cat .ud83d' is no .* valid Unicode"),
        ({"image": "a.jpg", "question": "Where?", "masks": "x"}, "unknown masks"),
    ],
)
def test_a_damaged_table(folder, entry, said):
    write_table(folder, entry)
    with pytest.raises(InputError, match=said) as raised:
        ImageFolder(folder)
    assert "questions.jsonl" in str(raised.value)


def test_broken_files(folder):
    with pytest.raises(InputError, match="no questions in"):
        ImageFolder(folder)
    with pytest.raises(InputError, match="no folder of images"):
        ImageFolder(folder / "nowhere")
    write_table(folder, {"image": "gone.jpg", "question": "Where?"})
    with pytest.raises(InputError, match="no image at .*gone.jpg"):
        ImageFolder(folder)[0]
    for mask, said in (("gone.png", "cannot read the mask"), ("small.png", "have to be equal")):
        Image.new("L", (5, 5)).save(folder / "small.png")
        write_table(folder, {"image": "a.jpg", "question": "Where?", "mask": mask})
        with pytest.raises(InputError, match=said):
            ImageFolder(folder)[0]
