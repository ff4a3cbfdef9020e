"""Word x CLIP against the whole CLIP as transformers runs it, and folders that lack a part."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from model.analysis.clip_word_maps import load_word_clip
from model.analysis.probe import ProbeQuery, SegProbe
from model.llava import load_vision_tower
from tests.model.whole_clip import write_whole_clip
from tests.released_tiny import CLIP
from utils.errors import InputError
from utils.protocol.generation import GenerationOptions
from utils.protocol.geometry import clip_box
from utils.protocol.image_transforms import clip_view, crop_for_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whole_clip(tmp_path_factory.mktemp("clip") / "whole")


def expected(folder, image, words) -> np.ndarray:
    """Cosines, from the outputs of transformers' own forward."""
    clip, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    tower = load_vision_tower(folder)
    caught = []
    hook = clip.vision_model.encoder.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: caught.append(output)
    )
    found = []
    with torch.no_grad():
        for word in words:
            tokens = tokenizer(word, return_tensors="pt", truncation=True, max_length=77)
            pixels = clip_view(image, tower.processor)[None]
            output = clip(**tokens, pixel_values=pixels)
            states = caught[-1][0] if isinstance(caught[-1], tuple) else caught[-1]
            patches = clip.visual_projection(clip.vision_model.post_layernorm(states))[0]
            # The class token's feature is what transformers calls the image's.
            whole = torch.nn.functional.cosine_similarity(patches[0], output.image_embeds[0], 0)
            assert float(whole) == pytest.approx(1, abs=1e-5)
            text = output.text_embeds[0]
            found.append([float(torch.cosine_similarity(patch, text, 0)) for patch in patches[1:]])
    hook.remove()
    return np.array(found).reshape(len(words), 24, 24)


def test_cosines_of_words_and_patches(folder, image):
    words = ["cup", "a thing that one drinks from", "b " * 100]
    tower = load_vision_tower(folder)
    made = load_word_clip(tower).maps(crop_for_clip(image, tower.processor), words)
    np.testing.assert_allclose(made, expected(folder, image, words), atol=1e-5)
    assert made.std() > 0 and not torch.allclose(made[0], made[1])
    assert float(made.abs().max()) <= 1


def test_an_analyst_compares_words(talking, folder, image):
    talking.model.load_vision_tower(folder)
    word = load_word_clip(talking.model.model.vision_tower)
    questions = [ProbeQuery("Where is it?", "cup"), ProbeQuery("What is this?", "spoon")]
    options = GenerationOptions(max_new_tokens=2)
    (seen,) = SegProbe(talking, options, word=word).stream([(image, questions)])
    maps = expected(folder, image, ["cup", "spoon"])
    for one, values in zip(seen, maps, strict=True):
        np.testing.assert_allclose(one.maps["word"].values, values, atol=1e-5)
        assert one.maps["word"].box == clip_box(image.shape[:2], 336)


def test_an_image_tower_alone_has_no_words():
    with pytest.raises(InputError, match="image tower alone .*--vision_tower"):
        load_word_clip(load_vision_tower(CLIP))


def test_a_clip_without_tokenizer_or_weights(tmp_path):
    folder = write_whole_clip(tmp_path / "clip")
    tower = load_vision_tower(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot load the whole CLIP"):
        load_word_clip(tower)
    (folder / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"no tokenizer.*vocab.json and merges.txt"):
        load_word_clip(tower)
