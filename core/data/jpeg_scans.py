"""Whether a JPEG holds its whole picture: libjpeg-turbo decodes it strictly, at an eighth of its size.

Pillow and OpenCV fill missing parts of a JPEG with grey and report nothing, or print a line without the file's name; a
truncated file may still have an end marker. simplejpeg turns libjpeg-turbo's warnings into errors. A missing scan
causes no warning, so the scans' headers are read here (ITU-T T.81, annexes B and G).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import simplejpeg

from core.errors import ImageError

SOF0, SOF1, SOF2, EOI, SOS = 0xC0, 0xC1, 0xC2, 0xD9, 0xDA
STANDALONE = (0x00, 0x01, *range(0xD0, 0xD9), 0xFF)  # markers without a segment, stuffed and fill bytes
COEFFICIENTS = 64
MAX_PADDING = 64  # zero bytes that an encoder may leave before a marker
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")


def check_scans(data: bytes) -> None:
    """Decode the first picture in a JPEG file. Raises ImageError where it is not whole."""
    try:
        colours = "CMYK" if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1)
    except ValueError as error:
        shorter = without_padding(data, str(error))
        if shorter == data:
            raise ImageError(f"The file is truncated or damaged: {error}.") from error
        check_scans(shorter)
        return
    if not has_all_scans(data):
        raise ImageError("The file is truncated or damaged: some of its scans are missing.")


def without_padding(data: bytes, warning: str) -> bytes:
    """Remove the zero bytes before a marker that libjpeg-turbo warns about."""
    found = EXTRANEOUS.search(warning)
    if found is None or int(found[1]) > MAX_PADDING:
        return data
    marker = bytes((0xFF, int(found[2], 16)))
    return data.replace(bytes(int(found[1])) + marker, marker)


def segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield position, marker and content of each segment of a JPEG file; padding and coded data are skipped."""
    position = data.find(b"\xff")
    while 0 <= position < len(data) - 1:
        code = data[position + 1]
        length = 1 if code in STANDALONE else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield position, code, data[position + 4 : position + length]
        position = data.find(b"\xff", position + length)


def first_scan(data: bytes) -> int:
    """Return the position of a JPEG's first scan; the data's length where it has none."""
    return next((position for position, code, _ in segments(data) if code == SOS), len(data))


def has_all_scans(data: bytes) -> bool:
    """Return whether the scans hold every bit of every coefficient. data: a JPEG that libjpeg-turbo can decode."""
    missing: dict[int, list[int]] = {}  # for each component, the low bits of each coefficient still to come
    progressive = False
    for _, code, segment in segments(data):
        if code == EOI:
            break
        if code in (SOF0, SOF1, SOF2):
            progressive = code == SOF2
            missing = {component: [COEFFICIENTS] * COEFFICIENTS for component in segment[6::3]}
        elif code == SOS:
            first, last, bits = segment[-3:] if progressive else (0, COEFFICIENTS - 1, 0)
            for component in segment[1:-3:2]:
                missing[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    return bool(missing) and not any(map(any, missing.values()))
