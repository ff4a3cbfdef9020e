"""Settings are compared value by value; paths by the place that they lead to."""

from utils.cli.differences import differences


def test_values_are_named_by_where_they_lie():
    before = {"lr": 1e-4, "sam": {"depth": 4, "side": 128}, "grid": [{"k": 1}, {"k": 2}], "old": 3}
    now = {"lr": 3e-4, "sam": {"depth": 5, "side": 128}, "grid": [{"k": 1}, {"k": 7}], "new": "x"}
    assert differences(before, now) == [
        ("lr", "0.0001", "0.0003"),
        ("sam.depth", "4", "5"),
        ("grid[1].k", "2", "7"),
        ("new", "not set", "x"),
        ("old", "3", "not set"),
    ]
    assert differences(now, now) == []


def test_lists_and_nothing():
    assert differences({"layers": [0, 1], "word": "a"}, {"layers": [], "word": None}) == [
        ("layers", "0, 1", "none"),
        ("word", "a", "none"),
    ]
    assert differences({"word": None}, {}) == []


def test_one_place_has_many_paths(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    one, other = str(tmp_path / "data"), str(tmp_path / "link")
    assert differences({"data": one}, {"data": f"{other}/."}) == []
    assert differences({"data": one}, {"data": str(tmp_path)}) == [("data", one, str(tmp_path))]


def test_lists_of_settings_of_different_lengths_are_counted():
    more, fewer = [{"t_pos": 0.8}, {"t_pos": 0.7}], [{"t_pos": 0.5}]
    (one,) = differences({"ablation": more}, {"ablation": fewer})
    assert one == ("ablation", "2 settings", "1 settings")
    (one,) = differences({"ablation": more}, {})
    assert one == ("ablation", "2 settings", "not set")
    (one,) = differences({"ablation": more}, {"ablation": [more[0], {"t_pos": 0.6}]})
    assert one == ("ablation[1].t_pos", "0.7", "0.6")
