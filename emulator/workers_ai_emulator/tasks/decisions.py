"""Validates the input of a decision model, and converts it to a DecisionRequest."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.wire.envelope import text_of, to_json
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    CONTEXT_EXCEEDED,
    DECISION_REFUSED,
    WireError,
)

_MAX_QUESTIONS = 64
_MAX_IMAGES = 4
_NUM_OPTIONS = {"choice": range(2, 256), "score": range(2, 11)}
# The text of each option begins with this part of the question's instructions [ours]. It is limited
# because a question may have 255 options.
_MAX_INSTRUCTIONS = 1000  # characters
_QUESTION_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_KEYS = {"model", "state", "questions", "images", "options"}
_QUESTION_KEYS = {"type", "instructions", "criteria"}
# The service estimates one token for every four bytes of a body. It refuses a body with more than
# twice the tokens that its error text names [measured, 2026-10; the factor is inferred].
_BYTES_PER_TOKEN = 4
_NUM_TOKENS = 65_536
_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_IMAGE_TYPE = re.compile(r"image/(?:png|jpe?g|webp)")
_SIGNATURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP", re.DOTALL)
# The values of the key `model` in the inputs of the service's models.
_SELECTORS = {"@cf/cloudflare/clef": "clef", "@cf/cloudflare/clef-flash": "clef-flash"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a request.

    `options`: the possible answers: the ids of a choice; the numbers of a score's levels, from "0"
    on; "true" and "false" for `noul`, a question for yes or no. `texts`: for each option, the
    beginning of the instructions, followed by the option's description; None if an answer to a
    `noul` question has no description. `levels`: the descriptions of a score's levels, as in the
    request.
    """

    id: str
    type: Literal["noul", "choice", "score"]
    options: tuple[str, ...]
    texts: tuple[str | None, ...]
    levels: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """The valid input of a decision model.

    `model`: the model's name in the response. `state`: what is decided about. `has_images`: whether
    the request also has images.
    """

    model: str
    state: str
    questions: tuple[Question, ...]
    has_images: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The state, and the texts of all options in their order."""
        texts = chain.from_iterable(question.texts for question in self.questions)
        return (self.state, *(text for text in texts if text is not None))


@dataclass(frozen=True, slots=True)
class Decisions:
    """The answers to a request's questions, and the number of tokens of all its texts.

    `probabilities`: for each question, the probability of each of its options. Their sum is 1.
    """

    probabilities: Sequence[Sequence[float]]
    num_tokens: int


def parse(body: Any, spec: ModelSpec) -> DecisionRequest:
    """Validates a model's input, and returns it as a DecisionRequest.

    A body without the key `model` is for the model in the path, as measured at the service
    (2026-10). Raises WireError with the service's error if the input is invalid.
    """
    selector = _SELECTORS.get(spec.name)
    if isinstance(body, dict) and "model" not in body:
        body = {"model": selector or "clef", **body}
    try:
        spec.validator.validate(body)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    _check_length(body)
    model = body["model"].strip()
    if selector not in (None, model):
        raise _refused(f"Unsupported model '{model}'. Use '{selector}'.")
    if other := next((key for key in body if key not in _KEYS), None):
        raise _invalid(other, "Extra inputs are not permitted")
    return DecisionRequest(
        model,
        _state(body["state"]),
        _questions(body["questions"]),
        _has_images(body.get("images")),
    )


def _check_length(body: Any) -> None:
    """Raises WireError if the body is longer than the service accepts."""
    num_tokens = -(-len(to_json(body)) // _BYTES_PER_TOKEN)
    if num_tokens > 2 * _NUM_TOKENS:
        raise WireError(CONTEXT_EXCEEDED, num_tokens, _NUM_TOKENS)


# The service's validator does not check everything that the schemas say: another program refuses
# such a body with the status 422. The texts of `_invalid` are recorded for the number of questions
# and for an invalid image, and inferred for all other mistakes.


def _state(value: Any) -> str:
    if not isinstance(value, str | dict | list) or is_too_deep(value):
        raise _invalid("state", "Input should be a string, an object or an array")
    return text_of(value)


def _questions(value: Any) -> tuple[Question, ...]:
    if (number := len(value)) > _MAX_QUESTIONS:
        most = f"Dictionary should have at most {_MAX_QUESTIONS} items after validation"
        raise _invalid("questions", f"{most}, not {number}")
    return tuple(_question(id, question) for id, question in value.items())


def _question(id: str, value: Any) -> Question:
    if not _QUESTION_ID.fullmatch(id):
        raise _invalid("questions", "String should match pattern '^[A-Za-z0-9_.-]{1,100}$'")
    if not isinstance(value, dict) or is_too_deep(value):
        raise _invalid("questions", "Input should be a valid dictionary")
    if other := next((key for key in value if key not in _QUESTION_KEYS), None):
        raise _invalid("questions", f"{id}.{other}: Extra inputs are not permitted")
    instructions = value.get("instructions")
    if not isinstance(instructions, str | dict | list):
        raise _invalid("questions", f"{id}: instructions should be a string, an object or an array")
    if not instructions:
        raise _invalid("questions", f"{id}: instructions should not be empty")
    text = text_of(instructions)[:_MAX_INSTRUCTIONS]
    criteria = value.get("criteria")
    match value.get("type"):
        case "noul":
            return _noul(id, text, criteria)
        case "choice" if isinstance(criteria, dict):
            _check_number("choice", id, criteria)
            return Question(id, "choice", (*criteria,), _option_texts(text, criteria))
        case "score" if isinstance(criteria, list):
            _check_number("score", id, criteria)
            if None in criteria:
                raise _invalid("questions", f"{id}: a level should have a description")
            options = tuple(map(str, range(len(criteria))))
            texts = tuple(f"{text} {text_of(level)}" for level in criteria)
            return Question(id, "score", options, texts, (*criteria,))
        case "choice" | "score":
            raise _invalid("questions", f"{id}: criteria should be valid")
    raise _invalid("questions", f"{id}: type should be 'noul', 'choice' or 'score'")


def _noul(id: str, instructions: str, criteria: Any) -> Question:
    """Returns a question for yes or no.

    Without criteria, the instructions describe the answer yes.
    """
    if not isinstance(criteria, dict | None):
        raise _invalid("questions", f"{id}: criteria should be a valid dictionary")
    if other := next((key for key in criteria or {} if key not in ("true", "false")), None):
        raise _invalid("questions", f"{id}: criteria.{other}: Extra inputs are not permitted")
    described = {key: value for key, value in (criteria or {}).items() if value is not None}
    texts = [
        f"{instructions} {text_of(described[key])}" if key in described else None
        for key in ("true", "false")
    ]
    if texts == [None, None]:
        texts = [instructions, None]
    return Question(id, "noul", ("true", "false"), tuple(texts))


def _option_texts(instructions: str, criteria: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a text for each option of a choice: its id, and its description if it has one."""
    described = (
        id if value is None else f"{id}: {text_of(value)}" for id, value in criteria.items()
    )
    return tuple(f"{instructions} {option}" for option in described)


def _check_number(type: str, id: str, options: Mapping[str, Any] | list[Any]) -> None:
    """Raises WireError if a question has too few or too many options, or one with an empty id."""
    numbers = _NUM_OPTIONS[type]
    if len(options) not in numbers:
        limits = f"{numbers.start} to {numbers.stop - 1}"
        raise _invalid("questions", f"{id}: criteria should have {limits} items")
    if "" in options:
        raise _invalid("questions", f"{id}: criteria should have no empty option")


def _has_images(value: Any) -> bool:
    images = [] if value is None else value
    if not isinstance(images, list):
        raise _invalid("images", "Input should be a valid list")
    if len(images) > _MAX_IMAGES:
        most = f"List should have at most {_MAX_IMAGES} items after validation"
        raise _invalid("images", f"{most}, not {len(images)}")
    if not all(map(_is_image, images)):
        raise _invalid("images", "image payload is invalid")
    return bool(images)


def _is_image(value: Any) -> bool:
    """Returns whether a value contains the first bytes of a PNG, JPEG or WebP image as base64."""
    match value:
        case str() if start := _DATA_URL.match(value):
            data = value[start.end() :]
        case {"content_type": str(type), "base64": str(data)} if _IMAGE_TYPE.fullmatch(type):
            pass
        case _:
            return False
    try:
        return bool(_SIGNATURES.match(base64.b64decode(data, validate=True)))
    except (binascii.Error, ValueError):
        return False


def _invalid(field: str, reason: str) -> WireError:
    """Returns the error for a key of the body with a mistake."""
    details = {"formErrors": [], "fieldErrors": {field: [reason]}}
    return _refused("Request body failed validation", details)


def _refused(message: str, details: Mapping[str, Any] | None = None) -> WireError:
    """Returns the service's error, whose text is a JSON object [recorded, 2026-10]."""
    error = {"type": "invalid_request", "message": message}
    content = {"error": error if details is None else error | {"details": details}}
    return WireError(DECISION_REFUSED, json.dumps(content, separators=(",", ":")))
