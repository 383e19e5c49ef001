"""Whether a JPEG holds its whole picture: its codes are walked to the last block, without computing a pixel.

The decoders fill what a JPEG lacks with grey and say nothing, or print a line without the file's name. A file that was
cut may have an end mark nevertheless, so only its codes tell. ITU-T T.81, annexes B (markers), F (sequential) and G
(progressive).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from core.errors import ImageError
from core.compression.pixel_loops import compiled

SOF0, SOF1, SOF2, DHT, EOI, SOS, DRI = 0xC0, 0xC1, 0xC2, 0xC4, 0xD9, 0xDA, 0xDD
FRAMES = (SOF0, SOF1, SOF2)  # sequential and progressive, with Huffman codes
OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a segment
COEFFICIENTS = 64
SPARE = 64  # bytes of padding that an encoder may leave before a marker

Bytes = npt.NDArray[np.uint8]
# (8, 65536), DC tables before AC tables: of the next 16 bits, a code's length · 256 + its symbol; 0 for no code
Lookups = npt.NDArray[np.uint16]

UPPER_16 = np.uint64(48)  # shift that leaves the uppermost 16 of 64 bits
SEQUENTIAL, DC_FIRST, DC_REFINED, AC_FIRST, AC_REFINED = range(5)  # what a scan brings of its blocks

TABLES_USED = ((0, 1), (0,), (), (1,), (1,))  # by them: DC tables 0, AC tables 1

# What the loops return in place of a position
NO_CODE, ENDS_EARLY, LEFT_OVER, NO_RESTART = -1, -2, -3, -4
REASONS = {
    NO_CODE: "a code in its picture data does not exist",
    ENDS_EARLY: "its picture data end before the picture",
    LEFT_OVER: "its picture data go on after the picture",
    NO_RESTART: "a restart marker in its picture data is missing",
}


@dataclass
class Component:
    """One colour of a frame. h, v: sampling factors. columns, rows: its blocks.

    pending: how many low bits of each coefficient are still to come; -1 while nothing has come.
    nonzero: of each block, the coefficients that are not zero so far, a bit each (progressive only).
    """

    h: int
    v: int
    columns: int = 0
    rows: int = 0
    pending: list[int] = field(default_factory=lambda: [-1] * COEFFICIENTS)
    nonzero: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1, np.uint64))


@dataclass
class Frame:
    """A picture's geometry: its components by id, and its MCUs."""

    progressive: bool
    components: dict[int, Component]
    mcus: int


def warm_up() -> None:
    """Compile, or load from Numba's cache, the loops."""
    check_scans(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())


def check_scans(data: bytes) -> None:
    """Walk every scan of the first picture in a JPEG file. Raises ImageError where it is not whole."""
    try:
        walk_file(data)
    except (LookupError, ValueError, ZeroDivisionError) as error:  # a segment too short, an unknown component
        raise damaged("a segment of its header is damaged") from error


def walk_file(data: bytes) -> None:
    """Follow the markers to the end mark."""
    lookups = np.zeros((8, 1 << 16), np.uint16)
    frame: Frame | None = None
    interval, position = 0, 2
    while True:
        marker, position = next_marker(data, position)
        if marker == EOI:
            break
        if marker in ALONE:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        segment = data[position + 2 : end]
        if end < position + 2 or end > len(data):
            raise damaged("a segment of its header is cut short")
        if marker in FRAMES:
            frame = read_frame(segment, progressive=marker == SOF2)
        elif marker in OTHER_FRAMES:
            raise ImageError("Expected a JPEG with Huffman codes and 8×8 blocks; this one is coded otherwise.")
        elif marker == DHT:
            read_tables(segment, lookups)
        elif marker == DRI:
            interval = int.from_bytes(segment[:2], "big")
        elif marker == SOS:
            if frame is None:
                raise damaged("its picture data come before its size")
            end = walk_scan(data, end, segment, frame, lookups, interval)
        position = end
    if frame is None or any(pending for each in frame.components.values() for pending in each.pending):
        raise damaged("a part of its picture data is missing")


def damaged(reason: str) -> ImageError:
    """The error of a JPEG that is not whole."""
    return ImageError(f"The file is truncated or damaged: {reason}.")


def next_marker(data: bytes, position: int) -> tuple[int, int]:
    """The next marker's code from a position on, and where its segment begins. ImageError where there is none."""
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 1:
        code = data[position + 1]
        if code not in (0x00, 0xFF):
            return code, position + 2
        position += 1
    raise damaged("its end mark is missing")


def read_frame(segment: bytes, *, progressive: bool) -> Frame:
    """The geometry that a frame header describes."""
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    listed = [segment[6 + 3 * number : 9 + 3 * number] for number in range(segment[5])]
    components = {name: Component(factors >> 4, factors & 15) for name, factors, _ in listed}
    h_max, v_max = (max(getattr(each, side) for each in components.values()) for side in ("h", "v"))
    if not height or not width:
        raise ValueError(f"Expected a size. Received: {height}×{width}.")
    for each in components.values():
        if h_max % each.h or v_max % each.v:
            raise ImageError("Expected a JPEG whose colours are subsampled by whole numbers; this one's are not.")
        each.columns, each.rows = blocks(width * each.h, h_max), blocks(height * each.v, v_max)
        if progressive:
            each.nonzero = np.zeros(each.columns * each.rows, np.uint64)
    return Frame(progressive, components, blocks(width, h_max) * blocks(height, v_max))


def blocks(length: int, factor: int) -> int:
    """How many blocks of 8 hold so many samples, divided by a factor; both rounded up."""
    samples = -(-length // factor)
    return -(-samples // 8)


def read_tables(segment: bytes, lookups: Lookups) -> None:
    """Spread each code table of a segment over all that the next 16 bits may be.

    A table: its class and number, how many codes there are of each length 1 to 16, their symbols in order.
    """
    while segment:
        symbols = 17 + sum(segment[1:17])
        lengths = np.repeat(np.arange(1, 17), list(segment[1:17]))
        codes = lengths * 256 + np.frombuffer(segment[17:symbols], np.uint8)
        spread = np.repeat(codes, 1 << (16 - lengths))
        row = lookups[4 * (segment[0] >> 4) + (segment[0] & 15)]
        row[:] = 0
        row[: len(spread)] = spread
        segment = segment[symbols:]


@cache
def standard_tables() -> Lookups:
    """The tables of annex K, which the frames of a film leave out; OpenCV writes them."""
    data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    lookups = np.zeros((8, 1 << 16), np.uint16)
    marker, position = next_marker(data, 2)
    while marker != SOS:
        end = position + int.from_bytes(data[position : position + 2], "big")
        if marker == DHT:
            read_tables(data[position + 2 : end], lookups)
        marker, position = next_marker(data, end)
    return lookups


def walk_scan(data: bytes, position: int, segment: bytes, frame: Frame, lookups: Lookups, interval: int) -> int:
    """Walk one scan's codes; return where its next marker stands. Raises ImageError."""
    count = segment[0]
    pairs, (first, last, successive) = segment[1 : 1 + 2 * count], segment[1 + 2 * count : 4 + 2 * count]
    chosen = [(frame.components[name], tables) for name, tables in zip(pairs[::2], pairs[1::2], strict=True)]
    if not frame.progressive:
        first, last, successive = 0, COEFFICIENTS - 1, 0
    if (
        not chosen
        or not first <= last < COEFFICIENTS
        or (first and count > 1)
        or (frame.progressive and last > first == 0)
    ):
        raise damaged("a scan's header is damaged")
    high, low = successive >> 4, successive & 15
    for component, _ in chosen:
        if any(pending != (high or -1) for pending in component.pending[first : last + 1]):
            raise damaged("a part of its picture data is missing, or comes twice")
        component.pending[first : last + 1] = [low] * (last + 1 - first)
    refined = high > 0
    brings = (AC_FIRST + refined if first else DC_FIRST + refined) if frame.progressive else SEQUENTIAL
    # A scan of one component has no MCUs: its blocks follow each other to the picture's edge.
    alone, one = count == 1, chosen[0][0]
    mcu = [(tables >> 4, 4 + (tables & 15)) for each, tables in chosen for _ in range(1 if alone else each.h * each.v)]
    for table in {pair[kind] for pair in mcu for kind in TABLES_USED[brings]}:
        if not lookups[table].any():
            lookups[table] = standard_tables()[table]
    end = int(
        walk(
            np.frombuffer(data, np.uint8),
            position,
            lookups,
            np.array(mcu, np.int64),
            one.columns * one.rows if alone else frame.mcus,
            interval,
            brings,
            first,
            last,
            one.nonzero,
        )
    )
    if end < 0:
        raise damaged(REASONS[end])
    return end


# The compiled loops. Their state is handed on: position, the bits read and not yet used (the next one the uppermost of
# 64), and how many those are.


@compiled
def walk(
    data: Bytes,
    position: int,
    lookups: Lookups,
    mcu: npt.NDArray[np.int64],
    mcus: int,
    interval: int,
    brings: int,
    first: int,
    last: int,
    nonzero: npt.NDArray[np.uint64],
) -> int:
    """Walk a scan of so many MCUs; return its end, or a reason. mcu: the DC and AC table of each block of one."""
    bits, held, run, expected = np.uint64(0), 0, 0, 0
    for number in range(mcus):
        if interval and number and number % interval == 0:
            position = segment_end(data, position, bits, held)
            if position < 0:
                return position
            if position + 1 >= len(data) or data[position + 1] != 0xD0 + expected:
                return NO_RESTART
            position, bits, held, run, expected = position + 2, np.uint64(0), 0, 0, (expected + 1) % 8
        for block in range(len(mcu)):
            if brings <= DC_FIRST:
                position, bits, held = sequential_block(
                    data, position, bits, held, lookups, mcu[block, 0], mcu[block, 1], brings == SEQUENTIAL
                )
            elif brings == DC_REFINED:
                position, bits, held = fill(data, position, bits, held)
                bits, held = used(bits, held, 1)
            elif brings == AC_FIRST:
                position, bits, held, run, nonzero[number] = first_block(
                    data, position, bits, held, lookups, mcu[block, 1], run, first, last, nonzero[number]
                )
            else:
                position, bits, held, run, nonzero[number] = refined_block(
                    data, position, bits, held, lookups, mcu[block, 1], run, first, last, nonzero[number]
                )
            if position < 0:
                return position
            if held < 0:
                return ENDS_EARLY
    return segment_end(data, position, bits, held)


@compiled
def fill(data: Bytes, position: int, bits: Any, held: int) -> tuple[int, Any, int]:
    """Read bytes until at least 48 bits are held or a marker comes; a 0xFF of the data is followed by a 0."""
    while held <= 48 and position < len(data):
        byte = data[position]
        if byte == 0xFF:
            if position + 1 >= len(data) or data[position + 1] != 0:
                break
            position += 1
        position += 1
        bits |= np.uint64(byte) << np.uint64(56 - held)
        held += 8
    return position, bits, held


@compiled
def used(bits: Any, held: int, count: int) -> tuple[Any, int]:
    """Go on by some bits; `held` falls below 0 where there are fewer."""
    return bits << np.uint64(count), held - count


@compiled
def value(bits: Any, count: int) -> int:
    """The next bits, at most 14, as a number."""
    return int(bits >> np.uint64(50)) >> (14 - count)


@compiled
def sequential_block(
    data: Bytes, position: int, bits: Any, held: int, lookups: Lookups, dc: int, ac: int, whole: bool
) -> tuple[int, Any, int]:
    """A block's DC coefficient and, where `whole`, the others (F.2.2)."""
    position, bits, held = fill(data, position, bits, held)
    code = lookups[dc, bits >> UPPER_16]
    if code == 0:
        return NO_CODE if held >= 16 else ENDS_EARLY, bits, held
    bits, held = used(bits, held, (code >> 8) + (code & 255))
    k = 1 if whole else COEFFICIENTS
    while k < COEFFICIENTS:
        if held < 32:
            position, bits, held = fill(data, position, bits, held)
        code = lookups[ac, bits >> UPPER_16]
        if code == 0 or held < 0:
            return NO_CODE if held >= 16 else ENDS_EARLY, bits, held
        run, size = (code >> 4) & 15, code & 15
        bits, held = used(bits, held, (code >> 8) + size)
        if size == 0 and run < 15:
            break
        k += run + 1
        if k > COEFFICIENTS:
            return NO_CODE, bits, held
    return position, bits, held


@compiled
def first_block(
    data: Bytes,
    position: int,
    bits: Any,
    held: int,
    lookups: Lookups,
    ac: int,
    run: int,
    first: int,
    last: int,
    nonzero: Any,
) -> tuple[int, Any, int, int, Any]:
    """The first bits of a block's coefficients first to last (G.1.2.2). run: blocks that follow without any."""
    if run:
        return position, bits, held, run - 1, nonzero
    k = first
    while k <= last:
        position, bits, held = fill(data, position, bits, held)
        code = lookups[ac, bits >> UPPER_16]
        if code == 0 or held < 0:
            return NO_CODE if held >= 16 else ENDS_EARLY, bits, held, run, nonzero
        skipped, size = (code >> 4) & 15, code & 15
        bits, held = used(bits, held, code >> 8)
        if size == 0 and skipped < 15:
            run = (1 << skipped) - 1 + value(bits, skipped)
            bits, held = used(bits, held, skipped)
            break
        bits, held = used(bits, held, size)
        k += skipped
        if size:
            if k > last:
                return NO_CODE, bits, held, run, nonzero
            nonzero |= np.uint64(1) << np.uint64(k)
        k += 1
    return position, bits, held, run, nonzero


@compiled
def refined_block(
    data: Bytes,
    position: int,
    bits: Any,
    held: int,
    lookups: Lookups,
    ac: int,
    run: int,
    first: int,
    last: int,
    nonzero: Any,
) -> tuple[int, Any, int, int, Any]:
    """One more bit of a block's coefficients first to last (G.1.2.3): a bit for each that was not zero before."""
    k, former = first, nonzero
    while k <= last and run == 0:
        position, bits, held = fill(data, position, bits, held)
        code = lookups[ac, bits >> UPPER_16]
        if code == 0 or held < 0:
            return NO_CODE if held >= 16 else ENDS_EARLY, bits, held, run, nonzero
        zeros, size = (code >> 4) & 15, code & 15
        bits, held = used(bits, held, code >> 8)
        if size == 0 and zeros < 15:
            run = (1 << zeros) + value(bits, zeros)
            bits, held = used(bits, held, zeros)
            break
        bits, held = used(bits, held, size)
        while k <= last:
            if (former >> np.uint64(k)) & np.uint64(1):
                position, bits, held = fill(data, position, bits, held)
                bits, held = used(bits, held, 1)
            elif zeros == 0:
                break
            else:
                zeros -= 1
            k += 1
        if size:
            if k > last:
                return NO_CODE, bits, held, run, nonzero
            nonzero |= np.uint64(1) << np.uint64(k)
        k += 1
    if run:
        while k <= last:
            if (former >> np.uint64(k)) & np.uint64(1):
                position, bits, held = fill(data, position, bits, held)
                bits, held = used(bits, held, 1)
            k += 1
        run -= 1
    return position, bits, held, run, nonzero


@compiled
def segment_end(data: Bytes, position: int, bits: Any, held: int) -> int:
    """Where the marker after a segment stands; LEFT_OVER where more than padding lies before it."""
    spare = held // 8
    bits <<= np.uint64(held % 8)
    for _ in range(spare):
        byte = bits >> np.uint64(56)
        if byte != 0 and byte != 255:
            return LEFT_OVER
        bits <<= np.uint64(8)
    while position + 1 < len(data) and not (data[position] == 0xFF and 0 < data[position + 1] < 0xFF):
        if data[position] != 0 and data[position] != 0xFF:
            return LEFT_OVER
        position += 1
        spare += 1
        if spare > SPARE:
            return LEFT_OVER
    return position
