"""Estimates the quality at which a lossy WebP was written, from the quantisers in its VP8 frame header (RFC 6386)."""

from __future__ import annotations

KEY_FRAME_HEADER = 10  # frame tag, start code, width and height
SEGMENTS = 4


class _Bits:
    """The boolean decoder of RFC 6386, section 7, for bits of even odds."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 2
        self._value, self._range, self._shifts = int.from_bytes(data[:2].ljust(2, b"\x00"), "big"), 255, 0

    def flag(self) -> bool:
        split = 1 + ((self._range - 1) * 128 >> 8)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                self._value |= self._data[self._at] if self._at < len(self._data) else 0
                self._at += 1
        return bit

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self.flag()
        return value

    def optional(self, bits: int) -> int | None:
        """A flag, and if it is set a number and its sign."""
        if not self.flag():
            return None
        value = self.number(bits)
        return -value if self.flag() else value


def estimate_quality(frame: bytes) -> int | None:
    """Returns the quality, 1 to 100, that libwebp maps to the mean quantiser of a VP8 key frame; None if it is none."""
    if len(frame) <= KEY_FRAME_HEADER or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    bits = _Bits(frame[KEY_FRAME_HEADER : KEY_FRAME_HEADER + 256])
    bits.number(2)  # colour space, clamping
    quantisers, absolute = _segment_quantisers(bits) if bits.flag() else ([], False)
    bits.number(1 + 6 + 3)  # loop filter: kind, level, sharpness
    if bits.flag() and bits.flag():
        for _ in range(8):
            bits.optional(6)
    bits.number(2)  # partitions
    base = bits.number(7)
    steps = quantisers if absolute else [base + change for change in quantisers or [0]]
    mean = sum(min(127, max(0, step)) for step in steps) / len(steps)
    linear = (1 - mean / 127) ** 3
    share = 1.5 * linear if linear < 0.5 else (linear + 1) / 2
    return min(100, max(1, round(100 * share)))


def _segment_quantisers(bits: _Bits) -> tuple[list[int], bool]:
    """Returns the quantisers of the segments, if the header gives any, and whether they are absolute."""
    update_map, update_data = bits.flag(), bits.flag()
    quantisers: list[int] = []
    absolute = False
    if update_data:
        absolute = bits.flag()
        quantisers = [bits.optional(7) or 0 for _ in range(SEGMENTS)]
        for _ in range(SEGMENTS):
            bits.optional(6)
    if update_map:
        for _ in range(3):
            if bits.flag():
                bits.number(8)
    return quantisers, absolute
