"""Tests finding a model of the catalogue by its name."""

from __future__ import annotations

import pytest
from workers_ai_emulator.errors import ModelUnknown
from workers_ai_emulator.models.catalog import CATALOG, find_spec


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("gpt-oss-20b", "did you mean @cf/openai/gpt-oss-20b? "),
        ("openai/gpt-oss-20b", "did you mean @cf/openai/gpt-oss-20b? "),
        ("@cf/openai/gpt-oss-21b", "did you mean @cf/openai/gpt-oss-20b or "),
        ("gpt-oss", "did you mean @cf/openai/gpt-oss-20b or @cf/openai/gpt-oss-120b? "),
        ("@cf/nobody/nothing", "`workers-ai-emulator models list`"),
        ("", "`workers-ai-emulator models list`"),
    ],
)
def test_an_unknown_name_gets_the_full_names_of_similar_models(name: str, suggested: str) -> None:
    with pytest.raises(ModelUnknown) as error:
        find_spec(CATALOG, name)
    assert str(error.value).startswith(f"no model is called {name}: {suggested}")


def test_a_known_name_is_found() -> None:
    name = next(iter(CATALOG))
    assert find_spec(CATALOG, name).name == name
