"""Tests the models file: the models that it adds, and the error line for each mistake."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.models.catalog import CATALOG, HubFile
from workers_ai_emulator.models.family import request_branches
from workers_ai_emulator.models.models_file import add_entry, check_name, read_catalog, remove_entry

NAME = "@cf/someone/some-model"
INT8 = "@cf/meta/llama-2-7b-chat-int8"


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    """Returns the lines of the error for a models file with this text, without the file's path."""
    path = write(folder, text)
    with pytest.raises(SettingInvalid) as failure:
        read_catalog(folder)
    lines = str(failure.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_without_a_models_file_the_catalogue_has_the_built_in_models(tmp_path: Path) -> None:
    assert read_catalog(tmp_path) == CATALOG


def test_a_configured_models_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="cannot be read"):
        read_catalog(tmp_path, tmp_path / "other.toml")


def test_an_entry_adds_a_model_with_a_file_next_to_the_models_file(tmp_path: Path) -> None:
    write(tmp_path, f'["{NAME}"]\nfile = "some.gguf"\n')
    catalog = read_catalog(tmp_path)
    assert list(catalog) == [*CATALOG, NAME]
    spec = catalog[NAME]
    assert spec.weights_file == tmp_path / "some.gguf"
    assert (spec.hub_file, spec.stand_in, spec.license) == (None, None, None)


def test_a_model_can_be_like_a_built_in_model(tmp_path: Path) -> None:
    kimi = CATALOG["@cf/moonshotai/kimi-k2.6"]
    text = f'["{NAME}"]\nlike = "{kimi.name}"\n["{NAME}-2"]\nlike = "{INT8}"\nfile = "a.gguf"\n'
    write(tmp_path, text)
    catalog = read_catalog(tmp_path)
    spec, with_file = catalog[NAME], catalog[f"{NAME}-2"]
    assert (spec.traits, spec.family, spec.price) == (kimi.traits, kimi.family, kimi.price)
    assert (spec.weights_file, spec.stand_in) == (kimi.weights_file, kimi.stand_in)
    assert spec.card["name"] == NAME
    assert (with_file.family, with_file.stand_in) == (CATALOG[INT8].family, None)
    assert (with_file.weights_file, with_file.retired_on) == (tmp_path / "a.gguf", None)


def test_a_model_can_be_like_an_embedding_model(tmp_path: Path) -> None:
    bge = CATALOG["@cf/baai/bge-small-en-v1.5"]
    write(tmp_path, f'["{NAME}"]\nlike = "{bge.name}"\nfile = "a.gguf"\n')
    spec = read_catalog(tmp_path)[NAME]
    assert (spec.embedding, spec.task, spec.family) == (bge.embedding, bge.task, bge.family)
    assert (spec.weights_file, spec.stand_in) == (tmp_path / "a.gguf", None)
    assert spec.card["task"]["name"] == "Text Embeddings"
    assert spec.card["properties"] == [{"property_id": "context_window", "value": "512"}]


def test_keys_of_text_models_are_mistakes_for_embedding_models(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").touch()
    text = (
        '["@cf/baai/bge-m3"]\nfile = "a.gguf"\ncontext_length = 512\nchat_template = "t.jinja"\n'
        "defaults = { max_tokens = 5 }\n"
    )
    reason = "embedding models, rerankers and decision models have no such key"
    assert mistakes(tmp_path, text) == [
        f'{line}: "@cf/baai/bge-m3".{key}: {reason}'
        for line, key in [(3, "context_length"), (4, "chat_template"), (5, "defaults")]
    ]


def test_mistakes_about_a_like_model_are_reported(tmp_path: Path) -> None:
    assert mistakes(tmp_path, f'["{NAME}"]\nlike = "{NAME}"\n') == [
        f'2: "{NAME}".like: must be the name of a built-in model'
    ]
    assert mistakes(tmp_path, f'["{NAME}"]\nlike = "@cf/baai/bge-small"\n') == [
        f'2: "{NAME}".like: must be the name of a built-in model; did you mean '
        "@cf/baai/bge-small-en-v1.5?"
    ]
    assert mistakes(tmp_path, f'["{NAME}"]\nlike = "{INT8}"\nrepo = "a/b"\n') == [
        f'3: "{NAME}".repo: needs the key file'
    ]


def test_files_of_the_hub_have_a_folder_for_each_repository(tmp_path: Path) -> None:
    write(tmp_path, f'["{NAME}"]\nfile = "q8/some.gguf"\nrepo = "a/B"\nrevision = "main"\n')
    spec = read_catalog(tmp_path)[NAME]
    assert spec.weights_file == Path("a/B/q8/some.gguf")
    assert spec.hub_file == HubFile("a/B", "q8/some.gguf", "main")


def test_an_entry_replaces_the_weights_of_a_built_in_model_but_not_its_card(tmp_path: Path) -> None:
    write(tmp_path, f'["{INT8}"]\nfile = "some.gguf"\ncontext_length = 2048\n')
    spec = read_catalog(tmp_path)[INT8]
    assert (spec.weights_file.name, spec.context_length) == ("some.gguf", 2048)
    assert spec.card == CATALOG[INT8].card
    assert spec.stand_in is None


def test_an_entry_keeps_the_schema_the_traits_and_the_price_of_a_built_in_model(
    tmp_path: Path,
) -> None:
    name = "@cf/google/gemma-4-26b-a4b-it"
    write(tmp_path, f'["{name}"]\nfile = "some.gguf"\ndefaults = {{ max_tokens = 9 }}\n')
    spec, built_in = read_catalog(tmp_path)[name], CATALOG[name]
    assert (spec.traits, spec.price, spec.family) == (
        built_in.traits,
        built_in.price,
        built_in.family,
    )
    assert spec.defaults == built_in.defaults | {"max_tokens": 9}
    branches = [*request_branches(spec.schema["input"])]
    assert [branch["properties"]["max_tokens"]["default"] for branch in branches] == [9, 9]
    branches = [*request_branches(built_in.schema["input"])]
    assert not any("default" in branch["properties"]["max_tokens"] for branch in branches)


def test_an_added_model_has_tools_and_json_mode(tmp_path: Path) -> None:
    write(tmp_path, f'["{NAME}"]\nfile = "some.gguf"\n')
    traits = read_catalog(tmp_path)[NAME].traits
    assert (traits.form, traits.has_tools, traits.json_mode) == ("response", True, "object")


def test_the_defaults_of_an_entry_are_in_the_schema_and_in_requests(tmp_path: Path) -> None:
    defaults = "{ max_tokens = 9, temperature = 0, seed = 1 }"
    write(tmp_path, f'["{NAME}"]\nfile = "some.gguf"\ndefaults = {defaults}\n')
    spec = read_catalog(tmp_path)[NAME]
    assert spec.defaults == CATALOG[INT8].defaults | {"max_tokens": 9, "temperature": 0, "seed": 1}
    branches = spec.schema["input"]["oneOf"]
    assert [branch["properties"]["max_tokens"]["default"] for branch in branches] == [9, 9]
    assert CATALOG[INT8].defaults["max_tokens"] == 256


def test_an_added_model_has_its_own_card(tmp_path: Path) -> None:
    write(
        tmp_path,
        f'["{NAME}"]\nfile = "some.gguf"\ncontext_length = 1024\ndescription = "for tests"\n',
    )
    spec = read_catalog(tmp_path)[NAME]
    assert (spec.card["name"], spec.card["description"]) == (NAME, "for tests")
    assert spec.card["properties"] == [{"property_id": "context_window", "value": "1024"}]
    assert spec.card["id"] != CATALOG[INT8].card["id"]
    assert spec.card["task"] == CATALOG[INT8].card["task"]


def test_the_chat_template_of_an_entry_is_read(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    write(tmp_path, f'["{NAME}"]\nfile = "some.gguf"\nchat_template = "own.jinja"\n')
    assert read_catalog(tmp_path)[NAME].chat_template == "{{ messages }}"


def test_every_mistake_has_its_line_key_and_reason(tmp_path: Path) -> None:
    text = """# mine
["@cf/someone/some-model"]
file = "some.gguf"
contxt_length = 4096
context_length = "long"

["@cf/someone/other"]
repo = "a/B"

["plain"]
file = "x.gguf"

["@cf/someone/third"]
file = "../x.gguf"
repo = "one"
chat_template = "none.jinja"

["@cf/someone/fourth"]
file = "x.gguf"
revision = "main"

["@cf/someone/fourth".defaults]
temperature = 9
stop = "x"
"""
    found = mistakes(tmp_path, text)
    assert [line.split(": ")[:2] for line in found] == [
        ["5", '"@cf/someone/some-model".context_length'],
        ["4", '"@cf/someone/some-model".contxt_length'],
        ["7", '"@cf/someone/other".file'],
        ["10", "plain"],
        ["15", '"@cf/someone/third".repo'],
        ["14", '"@cf/someone/third".file'],
        ["16", '"@cf/someone/third".chat_template'],
        ["24", '"@cf/someone/fourth".defaults.stop'],
    ]
    assert found[1].endswith("there is no such key; did you mean `context_length`?")
    assert found[2].endswith("is missing")
    assert "@cf/author/model" in found[3]


def test_a_default_that_is_invalid_in_requests_is_a_mistake(tmp_path: Path) -> None:
    text = f'["{NAME}"]\nfile = "x.gguf"\n\n[ "{NAME}".defaults]\ntemperature = 9\n'
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(f'5: "{NAME}".defaults.temperature: ')
    assert "'temperature' must be <= 5" in line or "temperature" in line


@pytest.mark.parametrize(
    "repo", ["../..", "a/..", "./a", "a", "a/b/c", "imported/x", "stand-in/x", "/a/b"]
)
def test_a_malformed_or_reserved_repo_is_a_mistake(tmp_path: Path, repo: str) -> None:
    (line,) = mistakes(tmp_path, f'["{NAME}"]\nfile = "x.gguf"\nrepo = "{repo}"\n')
    assert line.startswith(f'3: "{NAME}".repo: ')


@pytest.mark.parametrize("file", ["../x.gguf", "a/../../x.gguf", "/x.gguf", ".", "a/.."])
def test_a_file_outside_of_its_repo_is_a_mistake(tmp_path: Path, file: str) -> None:
    (line,) = mistakes(tmp_path, f'["{NAME}"]\nfile = "{file}"\nrepo = "a/B"\n')
    assert line == f'2: "{NAME}".file: must be a path inside the repo'


@pytest.mark.parametrize("file", ["x" * 5000, r"a\u0000b"])
def test_a_file_that_cannot_exist_is_a_mistake(tmp_path: Path, file: str) -> None:
    (line,) = mistakes(tmp_path, f'["{NAME}"]\nfile = "{file}"\n')
    assert line.startswith(f'2: "{NAME}".file: cannot be read: ')


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero"])
def test_a_chat_template_that_is_no_file_is_a_mistake(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    text = f'["{NAME}"]\nfile = "x.gguf"\nchat_template = "{name}"\n'
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(f'3: "{NAME}".chat_template: ') and line.endswith("not a file")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_models_file_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "models.toml")
    with pytest.raises(SettingInvalid, match=r"is a device or a pipe, not a file$"):
        read_catalog(tmp_path)
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(SettingInvalid, match=r"not a file$"):
            read_catalog(tmp_path, path)


def test_a_byte_order_mark_is_accepted_and_later_removed(tmp_path: Path) -> None:
    path = write(tmp_path, f'\ufeff["{NAME}"]\nfile = "some.gguf"\n')
    assert NAME in read_catalog(tmp_path)
    add_entry(path, "@cf/a/b", Path("b.gguf"))
    assert path.read_text("utf-8").startswith(f'["{NAME}"]')


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 20_000,
        "x = " + "{a=" * 20_000,
        "a" + ".a" * 400_000 + " = 1",
        f'["{NAME}"]\nfile = "x"\ncontext_length = ' + "9" * 5000,
        "#" * 2**20 + "\n",
    ],
    ids=["arrays", "tables", "dotted key", "digits", "size"],
)
def test_an_extreme_file_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    assert len(mistakes(tmp_path, text)) == 1


def test_a_mistake_in_a_large_file_has_its_line(tmp_path: Path) -> None:
    table = '["@cf/a/m{0}"]\nfile = "x"\ndescription = """\n[1]\n"""  # [\n'
    text = "".join(table.format(number) for number in range(3000))
    assert mistakes(tmp_path, f'{text}\n["{NAME}"]\nsize = 1') == [
        f'15002: "{NAME}".file: is missing',
        f'15003: "{NAME}".size: there is no such key',
    ]


def test_control_characters_are_escaped_in_errors(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, r'["@cf/a/\u001b[31mb\u0007"]' + '\nfile = "x"\n')
    assert r'"@cf/a/\x1b[31mb\x07"' in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[", "is not TOML"), ('"@cf/a/b" = 1\n', "should be a valid dictionary"), ("\0", "not TOML")],
)
def test_a_file_without_model_tables_is_a_mistake(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in mistakes(tmp_path, text)[0]


def test_a_name_without_quotes_gets_the_next_step(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, '[@cf/a/b]\nfile = "b.gguf"\n')
    assert line.endswith('; write a model\'s name in quotes: ["@cf/author/model"]')
    (line,) = mistakes(tmp_path, '["@cf/a/b"\nfile = "b.gguf"\n')
    assert "quotes" not in line


def test_adding_and_removing_an_entry_leaves_the_other_lines_unchanged(tmp_path: Path) -> None:
    text = "# mine\n['@cf/a/b'] # one\nfile   =  'b.gguf'\n"
    path = write(tmp_path, text)
    add_entry(path, NAME, Path("some.gguf"))
    assert list(read_catalog(tmp_path)) == [*CATALOG, "@cf/a/b", NAME]
    assert path.read_text().startswith(text)
    assert remove_entry(path, NAME)
    assert path.read_text().strip() == text.strip()
    assert not remove_entry(path, NAME)


def test_adding_an_existing_name_replaces_its_file_and_keeps_its_settings(tmp_path: Path) -> None:
    path = write(tmp_path, f'["{NAME}"]\nfile = "a.gguf"\nrepo = "a/B"\ncontext_length = 512\n')
    add_entry(path, NAME, Path("b.gguf"))
    spec = read_catalog(tmp_path)[NAME]
    assert (spec.weights_file, spec.context_length) == (tmp_path / "b.gguf", 512)
    assert spec.hub_file is None


def test_adding_the_first_entry_creates_the_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    assert not remove_entry(path, NAME)
    add_entry(path, NAME, Path("some.gguf"))
    assert NAME in read_catalog(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "@cf/meta", "@cf//x", "@cf/a/b/c", "@xy/a/b", "@cf/a /b"),
        *("@cf/a/\x1b[31m", "@cf/a/\u202e", "@cf/a/" + "b" * 5000),
    ],
)
def test_a_malformed_name_is_rejected(name: str) -> None:
    with pytest.raises(SettingInvalid, match="@cf/author/model"):
        check_name(name)


def test_a_change_waits_for_the_change_of_another_process(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    names = [f"@cf/a/model-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        for done in [pool.submit(add_entry, path, name, Path("a.gguf")) for name in names]:
            done.result()
    assert {*names} <= read_catalog(tmp_path).keys()
    with ThreadPoolExecutor(len(names)) as pool:
        assert all(pool.map(lambda name: remove_entry(path, name), names))
    assert list(read_catalog(tmp_path)) == list(CATALOG)


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_link_to_the_models_file_stays_a_link(tmp_path: Path, is_missing: bool) -> None:
    target, path = tmp_path / "dotfiles" / "models.toml", tmp_path / "models.toml"
    target.parent.mkdir()
    if not is_missing:
        target.touch()
    path.symlink_to(target)
    add_entry(path, NAME, Path("some.gguf"))
    assert path.is_symlink()
    assert read_catalog(tmp_path)[NAME].weights_file == tmp_path / "some.gguf"
    assert NAME in target.read_text()


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_change_keeps_the_permissions(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, "")
    path.chmod(mode)
    add_entry(path, NAME, Path("some.gguf"))
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_change_keeps_the_line_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f'# mine{end}["@cf/a/b"]{end}file = "b.gguf"{end}', newline="")
    add_entry(path, NAME, Path("some.gguf"))
    data = path.read_bytes().decode()
    assert data.count(end) == data.count("\n") >= 5
    assert data.count("\r") == end.count("\r") * data.count("\n")


def test_a_loop_of_links_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.symlink_to(path)
    with pytest.raises(SettingInvalid) as failure:
        add_entry(path, NAME, Path("some.gguf"))
    assert len(str(failure.value).splitlines()) == 1
