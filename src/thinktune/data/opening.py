"""The text of a file, whatever its compression, byte order mark and encoding."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from thinktune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj, ZstdDecompressor

COMPRESSIONS = (".gz", ".zst")
"""What may follow a format in a file's name: ``train.jsonl.gz``."""

MAX_LINE = 1 << 24
"""Characters of a line, or of a row of cells: four million tokens, more than a model can see."""

_MAX_UNPACKED, _MAX_RATIO = 1 << 28, 200
"""Bytes of which nobody asks how they were packed; and, beyond them, times the packed size."""

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def format_of(path: Path) -> str:
    """Give the end of a file's name that says its format, in lower case.

    >>> format_of(Path("Train.JSONL.gz"))
    '.jsonl'
    """
    compressed = path.suffix.lower() in COMPRESSIONS
    return (path.with_suffix("") if compressed else path).suffix.lower()


def open_bytes(path: Path, label: str) -> io.BufferedReader:
    """Open a file for reading, decompressed.

    What is read of it is refused once it is far more than text packs to, so that a few kilobytes
    cannot fill memory or disk.

    Raises:
        ConfigError: a .zst file without zstandard.
    """
    match path.suffix.lower():
        case ".gz":
            raw: gzip.GzipFile | io.RawIOBase = gzip.GzipFile(path, "rb")
        case ".zst":
            try:
                import zstandard  # noqa: PLC0415 - an optional extra
            except ImportError as error:
                raise ConfigError(
                    f"{label}: reading .zst needs zstandard: pip install thinktune[datasets]"
                ) from error
            raw = _ZstdFile(path.open("rb"), zstandard.ZstdDecompressor())
        case _:
            return io.BufferedReader(cast(io.RawIOBase, path.open("rb", buffering=0)), 1 << 18)
    unpacked = _Unpacked(raw, UnpackLimit(path, label))
    return io.BufferedReader(unpacked, 1 << 18)


class UnpackLimit:
    """Counts what comes out of a compressed file, and refuses a decompression bomb."""

    def __init__(self, path: Path, label: str) -> None:
        """Allow so many times the file's size."""
        self._packed, self._label, self._unpacked = path.stat().st_size, label, 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that came out.

        Raises:
            DataError: they are too many.
        """
        self._unpacked += num_bytes
        if self._unpacked > max(_MAX_UNPACKED, _MAX_RATIO * self._packed):
            raise DataError(
                f"{self._label}: {self._packed:,} bytes unpack to more than "
                f"{self._unpacked - num_bytes:,}, as no text does; unpack it yourself if you trust "
                "where it is from"
            )


class _Unpacked(io.RawIOBase):
    """A decompressed stream under a limit."""

    def __init__(self, file: gzip.GzipFile | io.RawIOBase, limit: UnpackLimit) -> None:
        self._file, self._limit = file, limit

    def readable(self) -> bool:
        """It is read, never written."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore - io's name for a buffer
        """Fill the buffer, and count."""
        count = self._file.readinto(buffer) or 0
        self._limit.add(count)
        return count

    def close(self) -> None:
        """Close the stream below too."""
        self._file.close()
        super().close()


_ZSTD_PIECE = 1 << 10
"""Bytes decompressed at a time: 128 KiB of output may come from four of them."""


class _ZstdFile(io.RawIOBase):
    """Decompresses frame by frame; zstandard's own reader takes a file cut off for its end."""

    def __init__(self, file: BinaryIO, decompressor: "ZstdDecompressor") -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: ZstdDecompressionObj | None = None
        self._waiting = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        """It is read, never written."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore - io's name for a buffer
        """Fill the buffer; a file that ends within a frame is an EOFError."""
        while not self._out:
            packed = self._waiting or self._file.read(_ZSTD_PIECE)
            self._waiting = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._out = memoryview(self._frame.decompress(packed))
            if self._frame.eof:
                self._waiting, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._out))
        buffer[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()


@contextmanager
def open_text(path: Path, label: str, *, newline: str = "\n") -> Iterator[io.TextIOWrapper]:
    """Open a text file; its lines end as they do in the file.

    They are cut at line feeds only or, with ``newline=""``, also at carriage returns.

    UTF-8 is taken for granted; UTF-16 is known by its byte order mark, or by every other byte of
    the first character being zero.

    Raises:
        DataError: not UTF-8, with byte and line; or the compressed file is broken or cut off.
        ConfigError: a .zst file without zstandard.
    """
    broken = _broken_archives()  # found now: a stream may be closed while Python ends
    with open_bytes(path, label) as raw:
        try:
            text = io.TextIOWrapper(raw, _encoding(raw.peek(4)[:4]), newline=newline)
            try:
                yield text
            finally:
                text.detach()
        except UnicodeDecodeError as error:
            raise DataError(_not_utf8(path, label, error)) from error
        except broken as error:
            raise DataError(
                f"{label}: broken or cut off as a {path.suffix} file: {error}; fetch it again"
            ) from error


def lines_of(text: io.TextIOWrapper, label: str) -> Iterator[str]:
    """Give a file's lines.

    Raises:
        DataError: one is longer than ``MAX_LINE``.
    """
    number = 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{label} line {number}: longer than {MAX_LINE:,} characters, so no row a model "
                "could read; is it JSON Lines or CSV, one row a line?"
            )
        yield line


def _encoding(start: bytes) -> str:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if len(start) >= 2 and start[0] and not start[1]:
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 2 and start[1] and not start[0] else "utf-8"


def _broken_archives() -> tuple[type[Exception], ...]:
    known: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error, EOFError)
    try:
        import zstandard  # noqa: PLC0415 - an optional extra
    except ImportError:
        return known
    return (*known, zstandard.ZstdError)


def _not_utf8(path: Path, label: str, error: UnicodeDecodeError) -> str:
    """Find the place again, line by line: a decoder's own count starts anew at every block."""
    if error.encoding.startswith("utf-16"):
        return f"{label}: broken UTF-16 ({error.reason}); save it as UTF-8"
    offset = 0
    with open_bytes(path, label) as raw:
        for number, line in enumerate(raw, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as found:
                return (
                    f"{label}: not UTF-8 at byte {offset + found.start} (line {number}); save it "
                    f"as UTF-8, for example: iconv -f BIG5 -t UTF-8 {path.name}"
                )
            offset += len(line)
    return f"{label}: not UTF-8; save it as UTF-8"
