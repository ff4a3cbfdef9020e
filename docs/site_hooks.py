"""What mkdocs does to the pages, so that they read well in the repository and on the site.

Pages at the root of the repository join the site, links to files outside it become the names of the
files, and formulas become MathML, which browsers show without a script.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
JOINED = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
}
"""Page of the repository -> page of the site."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#)([^)\s#]*)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the root."""
    for source, target in JOINED.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Rewrite links that leave the folder of pages."""

    def rewrite(match: re.Match[str]) -> str:
        text, target, heading = match.group(1), match.group(2), match.group(3) or ""
        inside = target.removeprefix("../")
        if inside in JOINED:
            return f"[{text}]({JOINED[inside]}{heading})"
        if files.get_file_from_path(target) is not None:
            return match.group(0)
        bare = text.strip("`").rstrip("/")
        return text if bare == inside else f"{text} (`{inside}`)"

    return LINK.sub(rewrite, markdown) if "/" not in page.file.src_uri else markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""

    def formula(match: re.Match[str]) -> str:
        text = html.unescape(match.group(2)).strip()
        if match.group(1) == "span":
            return convert(text, display="inline")
        return f'<div style="overflow-x: auto">{convert(text, display="block")}</div>'

    return FORMULA.sub(formula, content)
