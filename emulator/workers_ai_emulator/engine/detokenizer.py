"""From the bytes of tokens to text, one token at a time."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Holds back the bytes of an unfinished character until the rest arrives.

    `strip_leading_space`: SentencePiece marks the start of a word by a space, also at the start of
    the text, where its own decoder drops it.
    """

    def __init__(self, *, strip_leading_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_leading_space = strip_leading_space

    def feed(self, piece: bytes) -> str:
        """The text that `piece` completes."""
        return self._strip(self._decoder.decode(piece))

    def flush(self) -> str:
        """What is left: U+FFFD for a character that never became whole."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if self._strip_leading_space and text:
            self._strip_leading_space = False
            return text.removeprefix(" ")
        return text
