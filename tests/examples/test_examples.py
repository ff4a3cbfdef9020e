"""The examples run as they are, on random models of every kind they load, without network."""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import segment_anything.modeling as sa
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

from examples import sasp_lisa, sasp_transformers_sam
from model.sasp import SaspParams
from utils.protocol.tokenization import load_tokenizer

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "tests" / "data" / "golden" / "released_tiny"
SIDE, FRAME, WIDTH = 24, 128, 32
PARAMS = SaspParams(num_points=20, down_sample=1)
SIZES = [(90, 200), (200, 90), (120, 120)]


def planted(row: int, column: int) -> torch.Tensor:
    """A map that is high on 2 x 2 cells and falls off around them: float[V]."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = (y - row - 0.5) ** 2 + (x - column - 0.5) ** 2
    return torch.exp(-distance / 8).flatten()


def box_of(row: int, column: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Where those cells are in the image, by the geometry of a centre crop: x, y, x, y."""
    height, width = size
    cell = min(size) / SIDE
    left, top = (width - min(size)) / 2, (height - min(size)) / 2
    return (
        left + column * cell,
        top + row * cell,
        left + (column + 2) * cell,
        top + (row + 2) * cell,
    )


def assert_points_are_there(points, labels, row, column, size) -> None:
    left, top, right, low = box_of(row, column, size)
    cell = min(size) / SIDE
    inside = points[labels == 1]
    assert len(inside)
    assert (inside[:, 0] > left - cell).all() and (inside[:, 0] < right + cell).all()
    assert (inside[:, 1] > top - cell).all() and (inside[:, 1] < low + cell).all()
    middle = torch.tensor([left + right, top + low]) / 2
    assert (inside.mean(dim=0) - middle).abs().max() <= cell
    outside = points[labels == 0]
    assert ((outside - middle).norm(dim=1) > 3 * cell).all()


@pytest.fixture(scope="module")
def sa_sam() -> sa.Sam:
    """SAM of the `segment_anything` package, of small sizes."""
    torch.manual_seed(0)
    cells = FRAME // 16
    encoder = sa.ImageEncoderViT(
        img_size=FRAME, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=WIDTH,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), qkv_bias=True,
    )  # fmt: skip
    prompts = sa.PromptEncoder(
        embed_dim=WIDTH,
        image_embedding_size=(cells, cells),
        input_image_size=(FRAME, FRAME),
        mask_in_chans=4,
    )
    transformer = sa.TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=2, mlp_dim=64)
    decoder = sa.MaskDecoder(transformer_dim=WIDTH, transformer=transformer)
    return sa.Sam(encoder, prompts, decoder).eval()


@pytest.fixture(scope="module")
def hf_sam(tmp_path_factory) -> Path:
    """transformers' SAM with its processor, as a folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hf_sam")
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32,
            "output_channels": WIDTH, "image_size": FRAME, "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": WIDTH, "image_size": FRAME, "image_embedding_size": FRAME // 16,
        },
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    )  # fmt: skip
    config.vision_config.num_pos_feats = WIDTH // 2
    SamModel(config).save_pretrained(folder)
    square = {"height": FRAME, "width": FRAME}
    processor = SamImageProcessor(size={"longest_edge": FRAME}, pad_size=square)
    SamProcessor(processor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """A LLaVA of transformers that knows `[SEG]`, with its processor, as a folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, image_size=336, patch_size=14, **sizes
        ),
        text_config=LlamaConfig(
            hidden_size=WIDTH, intermediate_size=64, vocab_size=len(tokenizer), **sizes
        ),
        image_token_id=image_id,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336), tokenizer, patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def random_image(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["sasp_lisa", "sasp_transformers_sam"])
def test_examples_are_short_and_need_sasp_alone(name):
    text = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    assert len(text.splitlines()) < 60
    ours = [
        node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("model", "utils")
    ]
    assert ours == ["model.sasp"]


@pytest.mark.parametrize("size", SIZES)
def test_transformers_sam(hf_sam, tmp_path, size):
    model, processor = SamModel.from_pretrained(hf_sam), SamProcessor.from_pretrained(hf_sam)
    seen = {}
    model.prompt_encoder.register_forward_hook(
        lambda _, given, made, **__: seen.update(made=made), with_kwargs=False
    )
    model.prompt_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    found = sasp_transformers_sam.segment(
        model, processor, random_image(size), planted(5, 16), PARAMS
    )
    mask, points, labels = found
    assert mask.shape == size and mask.dtype == torch.bool
    assert_points_are_there(points, labels, 5, 16, size)
    # The points that SAM gets are the same ones in its frame, with the labels as they are.
    scale = FRAME / max(size)
    np.testing.assert_allclose(seen["input_points"][0, 0], points * scale, atol=0.6)
    assert seen["input_labels"][0, 0].tolist() == labels.tolist()


def test_labels_mean_the_same_to_both_sams(hf_sam, sa_sam):
    """With the same weights, both make the same tokens from points of every label."""
    theirs, ours = SamModel.from_pretrained(hf_sam).prompt_encoder, sa_sam.prompt_encoder
    with torch.no_grad():
        matrix = theirs.shared_embedding.positional_embedding
        matrix.copy_(ours.pe_layer.positional_encoding_gaussian_matrix)
        theirs.not_a_point_embed.weight.copy_(ours.not_a_point_embed.weight)
        for mine, other in zip(ours.point_embeddings, theirs.point_embed, strict=True):
            other.weight.copy_(mine.weight)
        points = torch.tensor([[10.0, 20.0], [100.0, 5.0], [64.0, 64.0]])
        labels = torch.tensor([1, 0, -1])
        tokens, _ = ours(points=(points[None], labels[None]), boxes=None, masks=None)
        made, _ = theirs(points[None, None], labels[None, None], None, None)
    torch.testing.assert_close(made[0], tokens)
    assert (tokens[0, 2] == ours.not_a_point_embed.weight[0]).all()


def test_transformers_sam_from_the_command_line(hf_sam, tmp_path, capsys):
    random_image((60, 90)).save(tmp_path / "image.png")
    np.save(tmp_path / "map.npy", planted(3, 3).reshape(SIDE, SIDE).numpy())
    files = [str(tmp_path / name) for name in ("image.png", "map.npy", "mask.png")]
    sasp_transformers_sam.main([*files, str(hf_sam)])
    assert Image.open(tmp_path / "mask.png").size == (90, 60)
    assert "points inside" in capsys.readouterr().out


def test_states_are_those_after_the_final_norm(llava):
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = LlavaProcessor.from_pretrained(llava)
    kept = {}
    norm = model.model.language_model.norm
    norm.register_forward_hook(lambda _, __, made: kept.update(states=made[0]))
    inputs = processor(
        images=random_image((90, 200)),
        text="USER: <image>\nWhere? ASSISTANT: It is [SEG].",
        return_tensors="pt",
    )
    seg_id = processor.tokenizer.convert_tokens_to_ids("[SEG]")
    image_states, seg_state = sasp_lisa.seg_and_image_states(model, inputs, seg_id)
    ids = inputs["input_ids"][0].tolist()
    first = ids.index(model.config.image_token_id)
    assert image_states.shape == (SIDE**2, WIDTH)
    torch.testing.assert_close(image_states, kept["states"][first : first + SIDE**2])
    torch.testing.assert_close(seg_state, kept["states"][ids.index(seg_id) - 1])


@pytest.mark.parametrize("size", SIZES)
def test_lisa_from_the_command_line(llava, sa_sam, tmp_path, monkeypatch, size):
    """A map planted in the hidden states arrives as points at its place, and as a mask."""
    random_image(size).save(tmp_path / "image.png")
    given = {}
    usual = LlavaForConditionalGeneration.from_pretrained

    def load(path):
        model = usual(path)

        def plant(_, __, states):
            states = torch.zeros_like(states)
            states[..., 0] = 1
            start = int((given["ids"][0] == model.config.image_token_id).nonzero()[0, 0])
            states[0, start : start + SIDE**2, 0] = planted(14, 4)
            return states

        model.register_forward_pre_hook(
            lambda _, __, kwargs: given.update(ids=kwargs["input_ids"]), with_kwargs=True
        )
        model.model.language_model.norm.register_forward_hook(plant)
        return model

    def segment(sam, image, points, labels, text=None):
        given.update(points=points, labels=labels)
        return usual_segment(sam, image, points, labels, text)

    usual_segment = sasp_lisa.segment
    monkeypatch.setattr(sasp_lisa, "segment", segment)
    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", staticmethod(load))
    monkeypatch.setitem(sasp_lisa.sam_model_registry, "vit_h", lambda path: sa_sam)
    files = [str(tmp_path / "image.png"), "Where is it?", str(tmp_path / "mask.png")]
    sasp_lisa.main(*files, str(llava), "tiny.pth")
    assert_points_are_there(given["points"], given["labels"], 14, 4, size)
    assert Image.open(tmp_path / "mask.png").size == size[::-1]


def test_text_changes_the_mask_of_a_lisa(sa_sam):
    points, labels = torch.tensor([[30.0, 20.0]]), torch.tensor([1])
    image = np.asarray(random_image((60, 90)))
    torch.manual_seed(1)
    masks = [
        sasp_lisa.segment(sa_sam, image, points, labels, text)
        for text in (None, *(20 * torch.randn(3, 1, WIDTH)))
    ]
    assert all(mask.shape == (60, 90) for mask in masks)
    assert any(not torch.equal(masks[0], mask) for mask in masks[1:])
