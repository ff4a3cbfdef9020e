"""Files that a visitor should not get away with."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def _noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def _text(path: Path) -> None:
    path.write_text("I am an image, am I not?" * 100)


def _svg(path: Path) -> None:
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
        '<image href="file:///etc/passwd"/><script>alert(1)</script></svg>'
    )


def _animation(path: Path) -> None:
    frames = [_noise(20, 20), Image.new("RGB", (20, 20), "red")]
    kind = "PNG" if path.suffix == ".png" else "GIF"
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:])


def _truncated(path: Path) -> None:
    _noise(60, 60).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:4000])


def _bomb(path: Path) -> None:
    """200 megapixels of zeros in about 25 kB."""
    width, height = 20_000, 10_000

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    packer = zlib.compressobj(9)
    line = bytes(1 + width // 8)
    rows = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def _large(path: Path) -> None:
    Image.new("L", (1001, 1000)).save(path)


def _narrow(path: Path) -> None:
    _noise(400, 3).save(path)


def _heavy(path: Path) -> None:
    _noise(900, 900).save(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "text.png": (_text, "cannot be read"),
    "drawing.svg": (_svg, "cannot be read"),
    "drawing.png": (_svg, "cannot be read"),
    "film.gif": (_animation, "cannot be read"),
    "film.png": (_animation, "animation"),
    "truncated.png": (_truncated, "cannot be read"),
    "empty.png": (_empty, "cannot be read"),
    "bomb.png": (_bomb, "too large"),
    "large.png": (_large, "1001 x 1000 pixels is too large"),
    "narrow.png": (_narrow, "too narrow"),
    "heavy.png": (_heavy, "larger than 2 MB"),
}
"""Name -> what writes it, and what is said about it under the limits of the tests."""


def write(folder: Path, name: str) -> Path:
    """Write one of `FILES`."""
    FILES[name][0](folder / name)
    return folder / name
