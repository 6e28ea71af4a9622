"""Values of a JSON document one by one, for documents far larger than memory (MPtrj is 11 GB of text).

Only the brackets of the outer levels are walked here; the values within are left to the standard library's decoder.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hydrapot.training.data.frames import DatasetError

BLOCK = 1 << 20
"""Bytes that are read at a time."""
SPACE = " \t\n\r"


class JsonStream:
    """A cursor in a JSON document.

    Parameters
    ----------
    handle
        The document, in UTF-8.
    path
        For messages.
    """

    def __init__(self, handle: IO[bytes], path: Path) -> None:
        self._handle = handle
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not white space; '' at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def members(self) -> Iterator[str]:
        """Yield the keys of the object at the cursor; the caller consumes each value before it asks for the next."""
        self._expect("{")
        if self.peek() == "}":
            self._expect("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._broken("a key that is no text")
            self._expect(":")
            yield key
            if self.peek() != ",":
                self._expect("}")
                return
            self._expect(",")

    def elements(self) -> Iterator[None]:
        """Step through the array at the cursor; the caller consumes each element before it asks for the next."""
        self._expect("[")
        if self.peek() == "]":
            self._expect("]")
            return
        while True:
            yield None
            if self.peek() != ",":
                self._expect("]")
                return
            self._expect(",")

    def value(self) -> Any:
        """Return the whole value at the cursor."""
        self.peek()
        wanted = 0
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                # Perhaps only the rest has not been read yet; twice as much each time keeps the work linear.
                wanted = max(2 * wanted, BLOCK)
                if not self._more(wanted):
                    raise self._broken(error.msg) from error
                continue
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def _expect(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise self._broken(f"{character!r} expected, {found!r} found")
        self._at += 1

    def _more(self, size: int = BLOCK) -> bool:
        """Read on, and forget what lies behind the cursor; False at the end."""
        if self._ended:
            return False
        raw = self._handle.read(size)
        self._ended = not raw
        self._text = self._text[self._at :] + self._decode.decode(raw, final=self._ended)
        self._at = 0
        return bool(raw)

    def _broken(self, what: str) -> DatasetError:
        return DatasetError(f"{self._path}: truncated or no JSON ({what}): fetch the file again")
