"""Runs the examples of docs/node.md, each in the project of a user."""

from __future__ import annotations

import re

import pytest

from tests.node_package.project import Project, block

pytestmark = pytest.mark.node

RULE = "## vitest\n"
JEST = "## jest\n"
BINDINGS = "## AI bindings\n"


def test_the_first_example_passes_in_nodes_test_runner(user: Project) -> None:
    user.write_blocks("pizza.test.mjs", "ask.mjs")
    done = user.run("node", "--test")
    assert "# pass 3" in done.stdout and done.returncode == 0, done.stdout


def test_the_example_of_vitest_passes(user: Project) -> None:
    user.write_blocks("vitest.config.mjs", "ask.test.mjs", "ask.mjs")
    done = user.run("vitest", "run")
    assert "1 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_jest_passes(user: Project) -> None:
    user.write_blocks("jest.config.cjs", "ask.test.cjs")
    user.write(
        "ask.cjs", re.sub("^export (.*?)ask", r"exports.ask = ask; \1ask", ask(), flags=re.M)
    )
    done = user.run("jest", "--testMatch", "**/*.test.cjs")
    assert "1 passed" in done.stderr and done.returncode == 0, done.stdout + done.stderr


def ask() -> str:
    return block("ask.mjs")


def test_the_example_of_miniflare_passes(workers_user: Project) -> None:
    workers_user.write("worker.test.mjs", block("worker.test.mjs", BINDINGS))
    done = workers_user.run("node", "--test")
    assert "# pass 1" in done.stdout and done.returncode == 0, done.stdout


WORKER = """
export default {
  async fetch(request, env) {
    const prompt = new URL(request.url).searchParams.get("question");
    const result = await env.AI.run("@cf/meta/llama-2-7b-chat-int8", { prompt });
    return new Response(result.response);
  },
};
"""
WRANGLER = """
{ "name": "worker", "main": "worker.mjs", "compatibility_date": "2025-07-01",
  "compatibility_flags": ["nodejs_compat"], "ai": { "binding": "AI" } }
"""


def test_the_example_of_vitests_workers_pool_passes(workers_user: Project) -> None:
    workers_user.write("vitest.config.mjs", block("vitest.config.mjs", BINDINGS))
    workers_user.write("worker.test.mjs", block("worker.test.mjs", "// vitest.config.mjs with @cl"))
    workers_user.write("worker.mjs", WORKER)
    workers_user.write("wrangler.jsonc", WRANGLER)
    done = workers_user.run("vitest", "run")
    assert "2 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr
