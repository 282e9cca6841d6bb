"""Searches texts for users' regular expressions in linear time, with RE2.

Users write Python's syntax, but Python's module `re` can take hours for an expression such as
`(a+)+$`. RE2 always takes linear time, but its `\\w`, `\\d`, `\\s` and `\\b` support only ASCII. So
this module parses the expression with Python's parser, and writes it in RE2's syntax. It replaces a
class such as `\\w` by a list of the characters that the class contains in Python.

RE2 finds only the boundaries of ASCII words. So if the expression contains `\\b` or `\\B` and the
text is not ASCII, this module changes the text and the expression:
- At each place before, between and after the characters of the text, it inserts the same marker
  character twice: one kind of marker if the place is a word boundary, another kind if it is not.
- It replaces `\\b` by a pattern that matches one marker of a boundary. Each pattern for a character
  first skips the markers before the character.
Each marker is inserted twice, so that `\\b\\b` can match, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from typing import Any

SIZE_OF_LARGE = 200_000

# The maximum cost of a search: the number of RE2 instructions times the number of characters of the
# text. A search with this cost takes a few seconds in the worst case.
_MAX_COST = 3 * 10**8
_MAX_MEMORY = 2**24  # bytes that RE2 may use for one compiled expression
# The markers that are inserted into texts: one for word boundaries, one for all other places.
# Ordinary text does not contain these characters, because Unicode reserves them.
_BOUNDARY, _INSIDE = "\ufdd0", "\ufdd1"
_MARKER = f"[{_BOUNDARY}{_INSIDE}]"
_MARKERS = re.compile(_MARKER)
_NO_BOUNDARY = re.compile(r"\B")
_BETWEEN_MARKERS = re.compile(f"(?<!{_INSIDE})(?!{_INSIDE})")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_UNSUPPORTED = {
    "ASSERT": "look-around such as (?=...)",
    "ASSERT_NOT": "look-around such as (?!...)",
    "GROUPREF": "a back-reference such as \\1",
    "GROUPREF_EXISTS": "a conditional group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition such as a++",
}


class PatternTooCostly(Exception):
    """Raised if searching a text for an expression could take minutes."""


class PatternTooLarge(ValueError):
    """Raised if RE2 refuses an expression because it would need too much memory.

    The failed compilation takes time too. So it counts as `SIZE_OF_LARGE` RE2 instructions towards
    the limit for all expressions of a script.
    """


class Pattern:
    """A compiled regular expression. `source`: the expression as the user wrote it.

    Raises ValueError if the expression is invalid or uses syntax that RE2 does not support.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            # `re._parser` is the parser of the module `re`, so it accepts exactly Python's syntax.
            # It is imported with `import_module`, because mypy has no types for this private
            # module.
            self._parsed = import_module("re._parser").parse(source)
            ascii_only, anything = (_Writer(self._parsed, is_ascii=flag) for flag in (True, False))
            self._needs_markers = anything.has_boundaries
            self._for_ascii = _compile(ascii_only.text)
            self._for_all = _compile(anything.text)
        except RecursionError as error:
            raise ValueError("no regular expression: it is nested too deep") from error
        except (re.error, OverflowError) as error:
            raise ValueError(f"no regular expression: {error}") from error

    @property
    def size(self) -> int:
        """The total number of RE2 instructions of the two compiled forms of the expression.

        One form is for ASCII texts, the other form is for all other texts.
        """
        return int(self._for_ascii.programsize + self._for_all.programsize)

    @property
    def num_groups(self) -> int:
        """The number of groups in parentheses, without those that begin with `(?:`."""
        return int(self._parsed.state.groups) - 1

    @property
    def group_names(self) -> dict[str, int]:
        """The names of groups such as `(?P<city>...)`, and the numbers of these groups, from 0."""
        return {name: number - 1 for name, number in self._parsed.state.groupdict.items()}

    def found_in(self, text: str) -> bool:
        """Returns whether the text contains a match.

        Raises PatternTooCostly if the search could take minutes.
        """
        compiled = self._for_ascii if text.isascii() else self._for_all
        text = self._searchable(text)
        if compiled.programsize * len(text) > _MAX_COST:
            raise PatternTooCostly
        return compiled.search(text) is not None

    def groups_in(self, text: str) -> dict[int | str, str | None]:
        """Returns the groups of the first match in the text, by number from 0, and by name.

        The value of a group that has matched nothing is None. Returns an empty dict if there is no
        match. Raises PatternTooCostly if the search could take minutes.
        """
        compiled = self._with_groups[text.isascii()]
        searchable = self._searchable(text)
        if compiled.programsize * len(searchable) * (1 + self.num_groups) > _MAX_COST:
            raise PatternTooCostly
        match = compiled.search(searchable)
        if match is None:
            return {}
        spans = (match.span(number) for number in range(1, 1 + self.num_groups))
        groups = [self._original(text, searchable, *span) for span in spans]
        names = {name: groups[number] for name, number in self.group_names.items()}
        return dict(enumerate(groups)) | names

    @cached_property
    def _with_groups(self) -> tuple[Any, Any]:
        """The two forms of the expression that have groups: for all texts, and for ASCII texts.

        They are slower than the forms without groups.
        """
        for_all, for_ascii = (
            _compile(_Writer(self._parsed, is_ascii=flag, has_groups=True).text)
            for flag in (False, True)
        )
        return for_all, for_ascii

    def _searchable(self, text: str) -> str:
        """Returns the text in the form in which RE2 searches it."""
        if text.isascii():
            return text
        text = _MARKERS.sub("\ufffd", _SURROGATES.sub("\ufffd", text))
        return _marked(text) if self._needs_markers else text

    def _original(self, text: str, searchable: str, start: int, end: int) -> str | None:
        """Returns the part of `text` from which a part of the searched text was made.

        `start`, `end`: the places of the part in the searched text; -1 if there is no such part.
        """
        if start < 0:
            return None
        if len(searchable) != len(text):  # leave out the markers that were inserted
            start, end = (len(_MARKERS.sub("", searchable[:place])) for place in (start, end))
        return text[start:end]


def _marked(text: str) -> str:
    """Inserts a pair of markers at each place: before, between and after the text's characters.

    The pair is `_BOUNDARY` twice at the start and the end of a word, and `_INSIDE` twice elsewhere.
    """
    inside = _NO_BOUNDARY.sub(_INSIDE, text)
    marked = _BETWEEN_MARKERS.sub(_BOUNDARY * 2, inside)
    return marked.replace(_INSIDE, _INSIDE * 2)


class _Writer:
    """Writes a regular expression in RE2's syntax.

    `parsed`: the expression, as Python's parser returns it. `text`: the result in RE2's syntax.
    `is_ascii`: whether the result is for ASCII texts only, which makes it shorter. `has_groups`:
    whether RE2 stores the parts of the text that groups match, which makes searches slower.
    `has_boundaries`: whether the result searches for the markers of word boundaries that `_marked`
    inserts into a text. The markers replace `\\b` and `\\B`, because RE2's `\\b` supports only
    ASCII.
    """

    def __init__(self, parsed: Any, *, is_ascii: bool, has_groups: bool = False) -> None:
        self._is_ascii = is_ascii
        self._has_groups = has_groups
        flags = parsed.state.flags
        self.has_boundaries = not (is_ascii or flags & re.ASCII) and _has_boundaries(parsed)
        self._before = f"{_MARKER}{{0,2}}" if self.has_boundaries else ""
        self.text = f"(?{'i' if flags & re.IGNORECASE else ''}:{self._sequence(parsed, flags)})"

    def _sequence(self, items: Iterable[Any], flags: int) -> str:
        return "".join(self._item(op.name, value, flags) for op, value in items)

    def _item(self, name: str, value: Any, flags: int) -> str:
        match name:
            case "LITERAL":
                return self._character(_escaped(value))
            case "NOT_LITERAL":
                return self._character(f"[^{_escaped(value)}{self._excluded}]")
            case "ANY":
                line_end = "" if flags & re.DOTALL else "\\n"
                excluded = line_end + self._excluded
                return self._character(f"[^{excluded}]" if excluded else "(?s:.)")
            case "IN":
                return self._character(self._set(value, flags))
            case "AT":
                return self._place(value.name, flags)
            case "BRANCH":
                return f"(?:{'|'.join(self._sequence(items, flags) for items in value[1])})"
            case "SUBPATTERN":
                return self._group(value, flags)
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self._repeated(value, flags, "?" if name == "MIN_REPEAT" else "")
        raise ValueError(f"{_UNSUPPORTED.get(name, name)} is not supported")

    @property
    def _excluded(self) -> str:
        """The characters that `.` and classes such as `[^a]` must not match.

        They are the two marker characters, or none if no markers are inserted into texts.
        """
        return f"{_BOUNDARY}{_INSIDE}" if self.has_boundaries else ""

    def _character(self, text: str) -> str:
        return f"(?:{self._before}{text})"

    def _set(self, items: list[Any], flags: int) -> str:
        is_negated = items[0][0].name == "NEGATE"
        content = "".join(self._member(op.name, value, flags) for op, value in items[is_negated:])
        return f"[^{content}{self._excluded}]" if is_negated else f"[{content}]"

    def _member(self, name: str, value: Any, flags: int) -> str:
        match name:
            case "LITERAL":
                return _escaped(value)
            case "RANGE":
                return "".join(_range(*span) for span in _without_markers(*value))
        end = 0x80 if self._is_ascii else 0x110000
        return _category(_CATEGORIES[value.name], bool(flags & re.ASCII), end)

    def _place(self, name: str, flags: int) -> str:
        match name:
            case "AT_BEGINNING" if flags & re.MULTILINE:
                return "(?m:^)"
            case "AT_BEGINNING" | "AT_BEGINNING_STRING":
                return "\\A"
            case "AT_END" if flags & re.MULTILINE:
                return f"{self._before}(?m:$)"
            case "AT_END":
                return f"(?:{self._before}\\n)?{self._before}\\z"
            case "AT_END_STRING":
                return f"{self._before}\\z"
            case "AT_BOUNDARY":
                return _BOUNDARY if self.has_boundaries else "\\b"
        return _INSIDE if self.has_boundaries else "\\B"

    def _group(self, value: Any, flags: int) -> str:
        number, added, removed, items = value
        flags = (flags | added) & ~removed
        text = f"(?{'i' if flags & re.IGNORECASE else '-i'}:{self._sequence(items, flags)})"
        return f"({text})" if self._has_groups and number is not None else text

    def _repeated(self, value: Any, flags: int, suffix: str) -> str:
        least, most, items = value
        text = f"(?:{self._sequence(items, flags)})"
        if most is import_module("re._constants").MAXREPEAT:
            return f"{text}{{{least},}}{suffix}"
        return f"{text}{{{least},{most}}}{suffix}"


def _compile(text: str) -> Any:
    import re2  # re2 is slow to import, and only scripts that use `matches` need it

    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        if "repetition" in shown:
            shown = "more than 1000 repetitions are not supported"
        kind = PatternTooLarge if "too large" in shown else ValueError
        raise kind(f"no regular expression: {shown}") from error


def _has_boundaries(items: Any) -> bool:
    """Returns whether a parsed expression contains `\\b` or `\\B` at any depth."""
    if type(items).__name__ == "_NamedIntConstant":
        return items.name in ("AT_BOUNDARY", "AT_NON_BOUNDARY")
    if isinstance(items, str | int) or items is None:
        return False
    return any(_has_boundaries(item) for item in items)


def _escaped(code: int) -> str:
    return f"\\x{{{0xFFFD if 0xD800 <= code <= 0xDFFF else code:x}}}"


def _range(first: int, last: int) -> str:
    return f"\\x{{{first:x}}}-\\x{{{last:x}}}"


def _without_markers(first: int, last: int) -> Iterator[tuple[int, int]]:
    for low, high in ((first, min(last, ord(_BOUNDARY) - 1)), (max(first, ord(_INSIDE) + 1), last)):
        if low <= high:
            yield low, high


@cache
def _category(category: str, is_ascii_class: bool, end: int) -> str:
    """Returns the characters of a class such as `\\w` in RE2's syntax, without square brackets.

    Omits the markers of word boundaries, which this module inserts into texts, and all code points
    from `end` on. `is_ascii_class`: whether the flag `re.ASCII` applies to the class.
    """
    characters = "".join(map(chr, range(end)))
    runs = re.compile(f"{category}+", re.ASCII if is_ascii_class else 0).finditer(characters)
    spans = (span for run in runs for span in _without_markers(run.start(), run.end() - 1))
    return "".join(_range(first, last) for first, last in spans)
