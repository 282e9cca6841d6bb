"""Grammars that constrain completions: which tokens may come next, computed by llguidance.

A grammar is a text in llguidance's dialect of Lark. It can contain JSON schemas (`%json {…}`), and
special tokens by their names (`<|channel|>`) or ids (`<[5]>`). All other tokens match their text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from workers_ai_emulator.engine.errors import GrammarFailed, GrammarUnsupported
from workers_ai_emulator.engine.types import Vocabulary

# The limits of one request's grammar. If a limit is exceeded while a completion is generated, the
# request fails. llguidance's own limits apply, too. With them, computing the allowed tokens of one
# step takes less than 100 ms.
_MAX_ITEMS = 10_000  # enough for an object with about 2,500 optional properties
_MAX_STATES = 30_000  # each state takes up to 2 kB of memory
_MAX_SLICED_TOKENS = 160_000  # the maximum size of a vocabulary that gets slices
# What is removed from an error text of llguidance: the location, the excerpt of the grammar, the
# line that marks a place in a regular expression, and the advice for programmers.
_NOISE = re.compile(
    r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?|\n +\d+ \| .*|\n +\^+(?=\n)"
    r"|\s*<(?:state|non-verbose/)>.*|\. Enable '.*",
    re.DOTALL,
)
_MAX_REASON_LENGTH = 300
_MAX_LINE_LENGTH = 160
# What replaces the beginning of some error texts, mostly because they do not name the keyword.
_REASONS = {
    "NoExtensionBias": "no text matches it",
    "Unimplemented keys": "unsupported keywords",
    "regex parse error": 'in "pattern"',
    "Resource": '"$ref" refers to another document:',
    "circular references": '"$ref": circular references',
    "Failed to generate regex for": '"minimum" or "maximum" is out of',
    "Unable to determine if regex is empty": '"pattern" in "allOf" is too complex',
    "patternProperty regexes": '"patternProperties":',
}


class CompiledGrammar:
    """A grammar that was compiled for the tokens of one model and for one request.

    Several completions of the request may use it at the same time, on any thread. But they share
    the limit of lexer states. `text`: the grammar's text. `matcher`: llguidance's matcher for it,
    which must not change.
    """

    def __init__(self, text: str, matcher: LLMatcher) -> None:
        self.text = text
        self._matcher = matcher

    def begin(self) -> GrammarState:
        """Returns the state at the beginning of a completion."""
        return GrammarState(self._matcher.deep_copy())


class GrammarState:
    """The state of a grammar in one completion: which tokens may come next.

    Implements the protocol of the same name in `types.py`.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether no text can follow, so the completion must end."""
        return bool(self._matcher.is_stopped())

    def allowed_tokens(self) -> bytes:
        """Returns a bit for each token of the vocabulary: 1 if the token may come next.

        The bit of token 0 is the lowest bit of the first byte. Raises GrammarFailed if the grammar
        exceeds a limit.
        """
        mask = self._matcher.compute_bitmask()
        self._check()
        return bytes(mask)

    def advance(self, token: int) -> None:
        """Adds a token to the completion.

        Raises GrammarFailed if the token is not allowed, or if the grammar exceeds a limit.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarFailed(f"the grammar stopped: {_reason(self._matcher.get_error())}")


class _TokenList:
    """The tokens of a vocabulary, in the form that the constructor of LLTokenizer reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Collection[int], eog: int) -> None:
        self.tokens = tokens
        self.special_token_ids = list(special)
        self.eos_token_id = eog
        self.tokenizer: LLTokenizer | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        """Returns the tokens of a text that the grammar prescribes.

        Each token is the longest that fits. llama.cpp's tokenizer is not used, because it can take
        minutes for some texts, or crash.
        """
        assert self.tokenizer is not None
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self.tokenizer.greedy_tokenize(text)


def new_tokenizer(
    tokens: Sequence[bytes], special: Collection[int], eog: Sequence[int]
) -> LLTokenizer:
    """Returns llguidance's tokenizer for these tokens.

    Slices are sets of tokens for frequent parts of JSON, which llguidance prepares to compute the
    allowed tokens faster. While llguidance builds the tokenizer, it holds Python's GIL, so no other
    thread runs, for up to 0.2 s with 128,000 tokens. Therefore the slices are added in a second
    call, and only if the vocabulary has at most 160,000 tokens.

    `tokens`: the bytes of each token; for a special token, its name. `special`: the ids of the
    special tokens. `eog`: the ids of the tokens that end a completion, at least one.
    """
    token_list = _TokenList(tokens, special, eog[0])
    tokenizer = LLTokenizer(
        token_list,  # type: ignore[arg-type]  # has the attributes that the constructor reads
        eos_token=list(eog),
        slices=[],
    )
    token_list.tokenizer = tokenizer
    is_sliced = len(tokens) <= _MAX_SLICED_TOKENS
    return tokenizer.with_slices(LLTokenizer.json_slices()) if is_sliced else tokenizer


def special_names(vocabulary: Vocabulary) -> dict[int, str]:
    """Returns the ids and names of the special tokens, which only `<…>` matches in a grammar."""
    return {token: name for name, token in vocabulary.special_tokens.items() if name}


def eog_tokens(vocabulary: Vocabulary) -> list[int]:
    """Returns the ids of all tokens that end a completion.

    Raises GrammarUnsupported if the model has none: a constrained completion could not end.
    """
    tokens = [token for token in range(vocabulary.size) if vocabulary.is_eog(token)]
    if not tokens:
        raise GrammarUnsupported("the model has no end-of-generation token")
    return tokens


def compile_grammar(text: str, tokenizer: LLTokenizer) -> CompiledGrammar:
    """Compiles a grammar, and computes which tokens a completion may begin with.

    Raises GrammarUnsupported if the grammar is invalid, contains a JSON schema with an unsupported
    keyword, exceeds a limit of llguidance, or allows no text.
    """
    limits = LLParserLimits(
        max_items_in_row=_MAX_ITEMS, max_lexer_states=_MAX_STATES, verbose_errors=False
    )
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarUnsupported(_reason(matcher.get_error()))
    return CompiledGrammar(text, matcher)


def _reason(error: str) -> str:
    """Returns the part of an error text of llguidance that says why a grammar is unsupported."""
    reason = _NOISE.sub("", error)
    beginning = next(filter(reason.startswith, _REASONS), "")
    reason = _REASONS.get(beginning, "") + reason.removeprefix(beginning)
    # A line can be a long regular expression.
    lines = (line.strip()[:_MAX_LINE_LENGTH] for line in reason.splitlines())
    return " ".join(lines)[:_MAX_REASON_LENGTH]
