"""Text of mesh files as arrays of tokens, so that numbers are parsed without a loop in Python."""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np

from occvae.errors import UserError

_NEWLINE = 10
_CHUNK = 20_000  # tokens that are parsed at a time, so that their text stays in the cache
JOINED_LINE = 11  # a vertical tab takes the place of a newline that a statement continues across
_ONE = np.uint64(1)
# The bit of a letter, moved down by one, is the bit of lower case.
_LETTER_BITS = np.uint64(0x4040404040404040)
_FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)
# UTF-32 first, because its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_FLOAT = re.compile(
    rb"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|infinity|nan(\(\w*\))?)", re.IGNORECASE
)
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d+")


def plain_text(data: bytes) -> bytes:
    """Returns text in an encoding that extends ASCII, with line feeds and without comments.

    UTF-16 and UTF-32 are decoded, and a byte order mark is removed. Comments begin with '#'.

    Raises:
        UserError: the text is damaged or binary.
    """
    text = decode(data).rstrip(b"\0")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in text:
        raise UserError("not text: it contains zero bytes")
    return re.sub(rb"#[^\n]*", b"", text) if b"#" in text else text


def decode(data: bytes) -> bytes:
    """Returns UTF-16 and UTF-32 as UTF-8, and other data without the byte order mark of UTF-8."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")
    if not encoding and _looks_like_utf_16(data):
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    if not encoding:
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode().removeprefix(codecs.BOM_UTF8)
    except UnicodeError:
        raise UserError(f"damaged text: not valid {encoding.upper()}") from None


def _looks_like_utf_16(data: bytes) -> bool:
    """Tells whether every second one of the first bytes is zero."""
    zeros = [byte == 0 for byte in data[:4]]
    return zeros in ([True, False] * 2, [False, True] * 2)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates the ranges starts[i], starts[i] + 1, ..., starts[i] + lengths[i] - 1."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def word_code(word: bytes) -> np.uint64:
    """Returns what `Text.words` holds for a word."""
    return np.uint64(int.from_bytes(word[:8], "little"))


def word_of(code: np.uint64) -> bytes:
    """Returns the first eight bytes of a word from its code."""
    return int(code).to_bytes(8, "little").rstrip(b"\0")


class Text:
    """Tokens of a text, separated by white space.

    Attributes:
        starts: (T,) first byte of each token in `array`.
        ends: (T,) the byte behind each token.
        first: (L,) first token of each line that has tokens.
        counts: (L,) number of tokens of these lines.
    """

    def __init__(self, text: bytes):
        # Eight line feeds, because `words` reads eight bytes at each token.
        self.array = np.frombuffer(b"\n" + text + 8 * b"\n", np.uint8)
        visible = self.array > ord(" ")
        changes = np.flatnonzero(visible[1:] != visible[:-1]) + 1
        self.starts, self.ends = changes[::2], changes[1::2]
        lines = np.searchsorted(self.starts, np.flatnonzero(self.array == _NEWLINE))
        counts = np.diff(lines)
        self.first, self.counts = lines[:-1][counts > 0], counts[counts > 0]

    def __len__(self) -> int:
        return len(self.starts)

    def token(self, index: int) -> str:
        """Returns a token in short form for messages."""
        token = self.array[self.starts[index] : self.ends[index]][:20].tobytes()
        return ascii(token.decode("latin-1"))

    def line(self, index: int) -> int:
        """Returns the number of the line that a token is in, counted from 1."""
        before = self.array[: self.starts[index]]
        return int(((before == _NEWLINE) | (before == JOINED_LINE)).sum())

    def words(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the first eight bytes of tokens, with letters in lower case, as `word_code`."""
        starts = self.starts[tokens]
        anywhere = np.ndarray(len(self.array) - 7, "<u8", self.array, 0, (1,))
        codes = anywhere[starts] & _FIRST_BYTES[np.minimum(self.ends[tokens] - starts, 8)]
        return codes | ((codes & _LETTER_BITS) >> _ONE)

    def floats(self, tokens: np.ndarray) -> np.ndarray:
        """Parses tokens, in ascending order, as float64."""
        return self._parse(tokens, self.ends[tokens], np.float64)

    def integers(self, tokens: np.ndarray, ends: np.ndarray | None = None) -> np.ndarray:
        """Parses tokens, in ascending order, as int64. `ends` can shorten them."""
        return self._parse(tokens, self.ends[tokens] if ends is None else ends, np.int64)

    def _parse(self, tokens: np.ndarray, ends: np.ndarray, dtype: type) -> np.ndarray:
        values: np.ndarray = np.empty(len(tokens), dtype)
        for first in range(0, len(tokens), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            numbers = self._parse_chunk(self.starts[tokens[chunk]], ends[chunk], dtype)
            # A malformed token such as 1.5.2 is parsed as several numbers, never as none.
            if len(numbers) != len(tokens[chunk]):
                self._refuse_malformed(tokens[chunk], ends[chunk], dtype)
            values[chunk] = numbers
        return values

    def _parse_chunk(self, starts: np.ndarray, ends: np.ndarray, dtype: type) -> np.ndarray:
        low, high = starts[0], ends[-1]
        edges = np.zeros(high - low + 1, np.int8)
        edges[starts - low] = 1
        edges[ends - low] -= 1
        inside = np.cumsum(edges, dtype=np.int8)[:-1].view(bool)
        selected = np.where(inside, self.array[low:high], np.uint8(ord(" "))).tobytes()
        try:
            return np.fromstring(selected, dtype, sep=" ")
        except ValueError:
            return np.empty(0, dtype)

    def _refuse_malformed(self, tokens: np.ndarray, ends: np.ndarray, dtype: Any) -> None:
        expected = re.compile(rb"[+-]?\d+") if dtype is np.int64 else _FLOAT
        for index, end in zip(tokens, ends, strict=True):
            token = self.array[self.starts[index] : end].tobytes()
            if not expected.fullmatch(token):
                break
        kind = "an integer" if dtype is np.int64 else "a number"
        remedy = "; write decimals with a point" if _DECIMAL_COMMA.fullmatch(token) else ""
        raise UserError(f"line {self.line(index)}: {self.token(index)} is not {kind}{remedy}")
