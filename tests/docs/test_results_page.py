"""`docs/results.md`: the toy table is what the benchmark measured, and README quotes it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text("utf-8")
MEASURED = (ROOT / "benchmarks" / "results" / "toy_seeds.md").read_text("utf-8")


def mean_of(row: str) -> list[str]:
    """The numbers in the last column of a row that the benchmark wrote."""
    (line,) = (line for line in MEASURED.splitlines() if line.startswith(f"| {row} |"))
    return re.findall(r"[\d.]+", line.split("|")[-2])


def test_rows_are_the_means_of_the_benchmark():
    rows = re.findall(
        r"^\| ([a-z ]+?)(?: \(.*\))? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M
    )
    assert len(rows) == 7
    for kind, giou, ciou, see in rows:
        name = "all" if kind == "all of these" else kind
        assert [giou, ciou] == mean_of(f"generated, {name}")
        assert [see] == mean_of("See, matched questions" if name == "all" else f"See, {name}")


def test_readme_quotes_the_table():
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    quoted = re.search(r"reaches ([\d.]+) gIoU, ([\d.]+) cIoU and ([\d.]+) See", text)
    assert quoted is not None
    assert [*quoted.groups()] == mean_of("generated, all") + mean_of("See, matched questions")


def test_readme_marks_the_published_numbers():
    published = (ROOT / "README.md").read_text("utf-8").split("## Run a released model")[1]
    table, said = published.split("## Train")[0].split("\n\n", 2)[1:]
    assert "The numbers are the paper's and were not measured here." in said
    recipes = (ROOT / "val_read.sh").read_text("utf-8")
    for giou, ciou in re.findall(r"([\d.]+) / ([\d.]+)", table):
        assert f"{giou}/{ciou}" in recipes
