"""Decodes the bytes of generated tokens into text, one token at a time."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Decodes the tokens of one completion as UTF-8, token by token.

    Keeps the bytes of an incomplete character until a later token completes the character.
    `strip_leading_space`: whether to remove the space that SentencePiece models generate before
    the first word.
    """

    def __init__(self, *, strip_leading_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_leading_space = strip_leading_space

    def feed(self, piece: bytes) -> str:
        """Decodes the bytes of the next token and returns all characters that are now complete."""
        return self._strip(self._decoder.decode(piece))

    def flush(self) -> str:
        """Ends the completion: returns U+FFFD if its last character is incomplete, otherwise ""."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if self._strip_leading_space and text:
            self._strip_leading_space = False
            return text.removeprefix(" ")
        return text
