"""Turns the bytes of tokens into text, one token at a time."""

from __future__ import annotations

import codecs


class Detokenizer:
    """An incremental UTF-8 decoder: keeps the bytes of an incomplete character for the next call.

    `strip_leading_space` removes the space before the first word, as SentencePiece's own decoder
    does: SentencePiece writes a space before every word.
    """

    def __init__(self, *, strip_leading_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_leading_space = strip_leading_space

    def feed(self, piece: bytes) -> str:
        """Returns the text that is complete after `piece`."""
        return self._strip(self._decoder.decode(piece))

    def flush(self) -> str:
        """Returns U+FFFD if the last character is incomplete, otherwise nothing."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if self._strip_leading_space and text:
            self._strip_leading_space = False
            return text.removeprefix(" ")
        return text
