"""The page of training draws: texts, masks as layers, broken draws, the command line."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from dataset.preview import Preview, layer, main, render, show, turns_of
from utils.protocol.batch import Sample
from utils.protocol.conversation import build_prompt, user_turn

TURNS = [("Which one?\nThe <b>red</b> one.", "It is [SEG]."), ("And now?", "Nothing.")]


def sample() -> Sample:
    image = np.full((100, 160, 3), 90, np.uint8)
    masks = np.zeros((2, 100, 160), np.uint8)
    masks[0, 10:40, 20:60] = 1
    masks[1, 60:90, 100:150] = 1
    conversations = [
        build_prompt([(user_turn("the left <thing>"), "Yes, [SEG].")]),
        build_prompt([(user_turn("a cow"), "There is none.")]),
        build_prompt([(user_turn("the right thing"), "Here: [SEG].")]),
    ]
    return Sample("images/a.jpg", image, conversations, masks, [True, False, True], kind="class")


def image_in(address: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


@pytest.mark.parametrize("conv_type", ["llava_v1", "llava_llama_2"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_turns_are_read_from_prompts(conv_type, wrapped):
    turns = [(user_turn(TURNS[0][0]), TURNS[0][1]), TURNS[1]]
    assert turns_of(build_prompt(turns, conv_type, wrapped)) == TURNS


def test_a_layer_shows_its_mask_and_nothing_else():
    mask = sample().masks[0]
    drawn = layer(mask, (200, 320), (255, 0, 0))
    assert drawn.shape == (200, 320, 4)
    assert tuple(drawn[50, 80]) == (255, 0, 0, 120)
    shown = drawn[..., 3] > 0
    large = mask.repeat(2, axis=0).repeat(2, axis=1) > 0
    assert shown[large].all()
    near = np.zeros_like(large)
    near[16:84, 36:124] = True
    assert not shown[~near].any()


def test_masks_go_to_their_expressions():
    drawn = show(sample(), 7, "sem_seg")
    assert drawn.size == (160, 100) and drawn.index == 7 and drawn.kind == "class"
    assert [said.turns[0][1] for said in drawn.expressions] == [
        "Yes, [SEG].",
        "There is none.",
        "Here: [SEG].",
    ]
    assert drawn.expressions[1].layer == "" and drawn.expressions[1].colour == ""
    size = image_in(drawn.image).shape[:2]
    assert min(size) >= 200
    for number, (x, y) in ((0, (40, 25)), (2, (125, 75))):
        alpha = image_in(drawn.expressions[number].layer)[..., 3]
        assert alpha.shape == size
        assert alpha[y * size[0] // 100, x * size[1] // 160] > 0
        assert alpha[50 * size[0] // 100, 5] == 0


def test_the_page_needs_nothing_else_and_escapes_texts():
    broken = Preview(8, "vqa", error="no image at <b>: check the path")
    page = render([show(sample(), 7, "sem_seg"), broken], "An <intro>.")
    assert "the left &lt;thing&gt;" in page and "An &lt;intro&gt;." in page
    assert "no image at &lt;b&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 3 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert 'class="layer layer-0"' in page and 'class="layer layer-2"' in page


def test_the_command_line(micro_data, tmp_path, capsys):
    out = tmp_path / "new" / "draws.html"
    flags = ["--dataset_dir", str(micro_data), "--dataset", "reason_seg"]
    assert main([*flags, "--draws", "5", "--first", "3", "--out", str(out)]) == 0
    assert "5 draws" in capsys.readouterr().out
    page = html.unescape(out.read_text(encoding="utf-8"))
    assert page.count('<section class="draw">') == 5
    assert re.search(r"the red block|the block|the blue fish", page)
    assert "Draws 3 to 7 with seed 42" in page


def test_mistakes_at_the_command_line(micro_data, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--dataset_dir", str(micro_data), "--dataset", "nothing", "--draws", "0"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "nothing" in said and "--draws=0" in said
    (tmp_path / "file").write_text("")
    command = ["--dataset_dir", str(micro_data), "--dataset", "reason_seg", "--draws", "1"]
    assert main([*command, "--out", str(tmp_path / "file" / "draws.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
