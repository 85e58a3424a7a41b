"""Images: decode within bounds, encode anew, so that what was judged is what the model sees.

An image from a client is hostile bytes. It is sniffed (the declared type counts for nothing),
bounded before and after decoding, turned upright, flattened on white and written again: metadata,
colour profiles, hidden frames and whatever lay under full transparency are gone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps

from monitors.errors import UserError


class ImageError(UserError):
    """An image cannot be used. Never tells a decoder's message: those leak addresses and paths."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large images may be: each, but for `total_pixels`."""

    bytes: int = 20 * 1024**2
    """Encoded, as it came and as it goes."""
    pixels: int = 40_000_000
    total_pixels: int = 80_000_000
    """Of all images of one request."""


_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_MAGIC: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
)


def count_pixels(data_url: str, limits: ImageLimits) -> int:
    """Return how many pixels an image has, by its header alone. Raises ImageError."""
    data, kind = _payload(data_url, limits)
    with _unreadable(kind), _opened(data, kind, limits) as image:
        return image.width * image.height


def reencode(data_url: str, limits: ImageLimits) -> str:
    """Return the data: URL of our own encoding of an image. Raises ImageError. Slow: not on a loop.

    JPEG stays JPEG; everything else becomes PNG.
    """
    data, kind = _payload(data_url, limits)
    with _unreadable(kind):
        encoded = _encode(_decode(data, kind, limits), kind)
    if len(encoded) > limits.bytes:
        raise ImageError(f"it is over {limits.bytes} bytes when encoded anew; make it smaller")
    return f"data:image/{_written_as(kind).lower()};base64,{base64.b64encode(encoded).decode()}"


def _payload(data_url: str, limits: ImageLimits) -> tuple[bytes, str]:
    """Return the bytes, and which format they start as."""
    header = _DATA_URL.match(data_url)
    if header is None:
        raise ImageError("it is no data:image/..;base64 URL")
    encoded = len(data_url) - header.end()
    if encoded > 4 * (limits.bytes + 2) // 3:  # before the bytes exist
        raise ImageError(f"it is over {limits.bytes} bytes")
    try:
        data = base64.b64decode(data_url[header.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("it is not valid base64") from None
    kind = next((name for magic, name in _MAGIC if magic.match(data)), None)
    if kind is None:
        raise ImageError("it is no PNG, JPEG, WebP or GIF image")
    return data, kind


@contextmanager
def _unreadable(kind: str) -> Iterator[None]:
    """Keep what a decoder says inside."""
    try:
        yield
    except ImageError:
        raise
    except Exception:  # noqa: BLE001 - decoders of hostile bytes raise anything
        raise ImageError(f"it is no readable {kind} image") from None


def _opened(data: bytes, kind: str, limits: ImageLimits) -> Image.Image:
    """Return the image, its header read only: refuse a bomb before its pixels exist."""
    image = Image.open(BytesIO(data), formats=(kind,))
    if image.width * image.height > limits.pixels:
        raise ImageError(f"it has over {limits.pixels} pixels")
    return image


def _decode(data: bytes, kind: str, limits: ImageLimits) -> Image.Image:
    """Return the upright RGB pixels."""
    with _opened(data, kind, limits) as image:
        # Phones append a second picture to a JPEG; its first frame is the picture.
        if kind != "JPEG" and getattr(image, "is_animated", False):
            raise ImageError("it is animated; send one frame")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if not image.has_transparency_data:
            return image.convert("RGB")
        # As vLLM does; models see RGB, so what lies under transparency must not survive.
        layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def _encode(image: Image.Image, kind: str) -> bytes:
    image.info.clear()  # Pillow writes what it finds here: comments, profiles
    buffer = BytesIO()
    if _written_as(kind) == "JPEG":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _written_as(kind: str) -> str:
    return "JPEG" if kind == "JPEG" else "PNG"
