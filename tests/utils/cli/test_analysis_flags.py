"""Which layers `--layers` names."""

import pytest

from utils.cli.analysis_flags import layer_problems, read_layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("4", [4]),
        ("4, 0,2-3,3", [0, 2, 3, 4]),
        ("all", [0, 1, 2, 3, 4]),
        (" 1 - 2 ", [1, 2]),
    ],
)
def test_ranges_and_lists(text, layers):
    assert read_layers(text, 4) == layers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-2-3", "3-2", "5", "0-5", "1,,2", "²"])
def test_what_is_no_layer(text):
    with pytest.raises(ValueError, match=r"layer|backwards"):
        read_layers(text, 4)
    (problem,) = layer_problems(text, 4, "read")
    assert problem.message.startswith(f"--layers={text}: ") and "0 to 4" in problem.message


def test_a_model_that_is_not_there_yet():
    assert layer_problems("0-40", None, "hub") == [] == layer_problems(None, 4, "read")
