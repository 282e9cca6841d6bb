"""Tests chat templates in a subprocess: results, hostile templates, and the end of the process."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import pytest
from jinja2 import TemplateError
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.prompts.template import Conversation, JinjaRenderer, LimitExceeded
from workers_ai_emulator.prompts.template_process import MODULE, IsolatedRenderer

WORDS = "{% for message in messages %}{{ message.content }}.{% endfor %}"
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
# Each value is a template and a part of the error. The template is hostile only if the first
# message is `attack`. Afterwards, the next conversation must be rendered normally.
HOSTILE = {
    "loops": (ENDLESS, "did not end within"),
    "macros": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
        "did not end within",
    ),
    "power": ("{{ (messages | length + 9) ** (10 ** 9) }}", "did not end within"),
    "product": ("{{ 'x' * (messages | length * 10 ** 10) }}", "too much memory"),
    "doubling": (
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}",
        "too much memory",
    ),
    "list": ("{{ ([messages] * 10 ** 10) | length }}", "too much memory"),
    "centre": ("{{ messages[0].content | center(10 ** 10) }}", "too much memory"),
    "format": ("{{ '%10000000000d' % messages | length }}", "too much memory"),
    "width": ("{{ '{:>10000000000}'.format(messages | length) }}", "too much memory"),
    "long": ("{{ 'x' * 10 ** 7 }}", "writes more than"),
    "endless": (
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "writes more than",
    ),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "words": ("{{ raise_exception('x' * 10 ** 7) }}", "^x{1000}$"),
    "digits": ("{{ (messages | length + 9) ** (10 ** 6) }}", "Exceeds the limit"),
    "escape": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "import": ("{% import 'os' as os %}", "no loader"),
}


def conversation(*contents: str) -> Conversation:
    messages = [{"role": "user", "content": content} for content in contents]
    return Conversation(messages, bos_token="<s>", eos_token="</s>", masked={"<": "\ue000"})


def children() -> list[psutil.Process]:
    """Returns those child processes of this process that render templates."""
    found = psutil.Process().children()
    return [child for child in found if MODULE in child.cmdline()]


def wait_until_busy(process: psutil.Process) -> None:
    before = process.cpu_times().user
    while process.cpu_times().user < before + 0.1:
        pass


@pytest.fixture
def words() -> Iterator[IsolatedRenderer]:
    with closing(IsolatedRenderer(WORDS)) as renderer:
        yield renderer


def test_a_template_renders_as_in_this_process() -> None:
    source = (
        "{{ bos_token }}{% generation %}{% for m in messages %}{% if '<x>' in m.content %}"
        "{% continue %}{% endif %}{{ m | tojson(indent=2) }}{% endfor %}{% endgeneration %}"
        "{% if tools %}{{ tools }}{% endif %}{{ eos_token if add_generation_prompt }}"
    )
    typed = conversation("", "é猫🐱\n\t\0", "\ud800", "\ue000x>", "'&\"", "x" * 100_000)
    with closing(IsolatedRenderer(source)) as isolated:
        text = isolated.render(typed)
    assert text == JinjaRenderer(source).render(typed)
    assert "é猫🐱" in text and "\ue000x>" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_an_error_and_the_next_conversation_is_rendered(name: str) -> None:
    source, reason = HOSTILE[name]
    if "memory" in reason and sys.platform != "linux":
        pytest.skip("only Linux keeps to a limit of addresses")
    guarded = "{% if messages[0].content == 'attack' %}" + source + "{% endif %}" + WORDS
    limit_s = 1 if "did not end" in reason else 60
    with closing(IsolatedRenderer(guarded, limit_s=limit_s)) as renderer:
        with pytest.raises(TemplateError, match=reason):
            renderer.render(conversation("attack"))
        assert renderer.render(conversation("hi", "there")) == "hi.there."


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ 9 ** (9 ** 9) }}"],
    ids=["syntax", "depth", "time"],
)
def test_a_template_that_does_not_compile_is_rejected_at_once(source: str) -> None:
    with (
        pytest.raises(ValueError, match="its chat template"),
        closing(IsolatedRenderer(source, limit_s=1)),
    ):
        pass
    assert not children()


def test_a_template_that_rejects_a_conversation_keeps_its_process() -> None:
    with closing(IsolatedRenderer("{{ raise_exception('roles must alternate') }}")) as renderer:
        before = children()
        with pytest.raises(TemplateError, match=r"^roles must alternate$") as caught:
            renderer.render(conversation("hi"))
        assert not isinstance(caught.value, LimitExceeded)
        assert children() == before


def test_concurrent_threads_get_their_own_results(words: IsolatedRenderer) -> None:
    def render(i: int) -> bool:
        return words.render(conversation(f"{i}" * 1000)) == f"{i}" * 1000 + "."

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(render, range(200)))


def test_a_process_that_died_between_two_conversations_is_replaced(words: IsolatedRenderer) -> None:
    (child,) = children()
    child.kill()
    psutil.wait_procs([child], timeout=10)
    assert words.render(conversation("hi")) == "hi."


def test_a_conversation_that_finds_the_process_busy_exceeds_the_capacity(
    words: IsolatedRenderer,
) -> None:
    words._limit_s = 0.01
    with words._supervisor.child(limit_s=60), pytest.raises(CapacityExceeded):
        words.render(conversation("hi"))


def test_a_process_that_cannot_be_started_again_is_no_error_of_the_template(
    words: IsolatedRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (child,) = children()
    child.kill()
    psutil.wait_procs([child], timeout=10)
    for executable in ("no such file", "true"):
        monkeypatch.setattr(sys, "executable", shutil.which(executable) or executable)
        with pytest.raises(EngineError, match="no process can be started"):
            words.render(conversation("hi"))


def test_the_process_has_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_API_TOKEN", "secret")
    with closing(IsolatedRenderer(WORDS)):
        (child,) = children()
        assert "secret" not in child.environ().values()


def test_the_process_loads_neither_llama_cpp_nor_a_web_framework() -> None:
    program = "import workers_ai_emulator.prompts.template_process, sys; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not {"llama_cpp", "numpy", "fastapi", "workers_ai_emulator.prompts.chat"} & set(modules)


def test_closing_ends_the_process_and_may_be_repeated(words: IsolatedRenderer) -> None:
    words.close()
    words.close()
    assert not children()
    with pytest.raises(EngineError, match="unloaded"):
        words.render(conversation("hi"))
    assert not children()


def test_closing_ends_an_endless_rendering() -> None:
    with ThreadPoolExecutor(1) as pool, closing(IsolatedRenderer(ENDLESS, limit_s=600)) as renderer:
        (child,) = children()
        rendering = pool.submit(renderer.render, conversation("hi"))
        wait_until_busy(child)
        renderer.close()
        assert isinstance(rendering.exception(timeout=60), EngineError)
    assert not child.is_running()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends processes otherwise")
@pytest.mark.parametrize("source", [WORDS, ENDLESS], ids=["idle", "rendering"])
def test_the_process_ends_with_its_parent(source: str) -> None:
    program = (
        "import psutil\n"
        "from workers_ai_emulator.prompts.template_process import *\n"
        f"renderer = IsolatedRenderer({source!r}, limit_s=2)\n"
        "renderer._limit_s = 600\n"  # changes only the parent's limit
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "renderer.render(Conversation([], '', '', {}))\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=30)
