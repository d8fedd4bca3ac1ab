"""Opens files with Pillow under an allow-list of one format; whatever goes wrong becomes a refusal."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from rid.models.photo_files.photos import PhotoRefused
from rid.models.policy import PILLOW_BOMB_PIXELS

FAULTS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    SyntaxError,
    ZeroDivisionError,
)
# A policy may admit up to twice what Pillow warns of, and checks it on the header; above that nothing is decoded.
Image.MAX_IMAGE_PIXELS = 2 * PILLOW_BOMB_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")  # hostile files cause thousands, each one a line of the log
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@contextlib.contextmanager
def opened(data: bytes, kind: str, *, truncated: bool = False) -> Iterator[Image.Image]:
    """Opens a file, for decoding inside the `with` block.

    Args:
        data: the file.
        kind: the one format that is tried, as Pillow names it.
        truncated: whether the file is known to stop early, which is then the reason of every fault.

    Raises:
        MemoryError: where there is not enough for it.
        PhotoRefused: `too_many_pixels` where Pillow suspects a decompression bomb, `truncated` or `decode_error`. The
            detail says nothing that differs between two runs.
    """
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
            yield picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoRefused("too_many_pixels", f"the {kind}'s header claims more pixels than can be decoded") from error
    except UnidentifiedImageError as error:
        raise PhotoRefused("truncated" if truncated else "decode_error", f"the {kind}'s header is not valid") from error
    except FAULTS as error:
        early = truncated or "truncated" in str(error)
        sentence = f"the {kind} stops before its end" if early else f"the {kind}'s data cannot be decoded"
        raise PhotoRefused("truncated" if early else "decode_error", sentence) from error
