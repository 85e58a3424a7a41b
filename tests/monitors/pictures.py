"""Pictures of words, drawn as an attacker would, with fonts that are there."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONTS = (None, Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"))
"""None: Pillow's own."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = str | tuple[int, int, int]


def font(size: int, path: Path | None = None) -> Font:
    """A font of this size in pixels; Pillow's own where there is no such file."""
    if path is None or not path.exists():
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(path), size)


def drawn(
    words: str,
    *,
    size: int = 24,
    path: Path | None = None,
    ink: Colour = "black",
    paper: Colour | Image.Image = "white",
    margin: int = 16,
) -> Image.Image:
    """The words on paper that fits them, or on the picture that `paper` is."""
    face = font(size, path)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), words, font=face
    )
    extent = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    image = paper if isinstance(paper, Image.Image) else Image.new("RGB", extent, paper)
    ImageDraw.Draw(image).multiline_text((margin - left, margin - top), words, fill=ink, font=face)
    return image
