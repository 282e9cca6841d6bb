"""Prints the table of docs/parity.md, from the snapshots: `python -m tests.conformance.parity`."""

from __future__ import annotations

from tests.conformance.snapshots import SNAPSHOTS

COLUMNS = ("recorded", "documented", "inferred")
_ORDER = [
    "ai/run/{model}",
    "ai/run/{model}: llama-3.3",
    "ai/run/{model}: qwen3",
    "ai/run/{model}: qwen3.8",
    "ai/run/{model}: gemma-sea-lion",
    "ai/run/{model}: gpt-oss",
    "ai/run/{model}: gemma-4",
    "ai/run/{model}: glm-4.7",
    "ai/run/{model}: llama-3.1-fast",
    "ai/run/{model}: llama-3.2-vision",
    "ai/run/{model}: llama-4-scout",
    "ai/run/{model}: llama-guard-3",
    "ai/run/{model}: mistral-small",
    "ai/run/{model}: gemma-3",
    "ai/run/{model}: qwen2.5-coder",
    "ai/run/{model}: qwq",
    "ai/run/{model}: deepseek-r1",
    "ai/run/{model}: granite-4.0",
    "ai/run/{model}: bge-m3",
    "ai/run/{model}: bge-…-en-v1.5",
    "ai/run/{model}: embeddinggemma",
    "ai/run/{model}: plamo-embedding",
    "ai/run/{model}: qwen3-embedding",
    "ai/run/{model}: bge-reranker",
    "ai/run/{model}: clef",
    "ai/run",
    "ai/v1/chat/completions",
    "ai/v1/chat/completions: gpt-oss",
    "ai/v1/chat/completions: kimi-k2.6",
    "ai/v1/chat/completions: kimi-k2.7-code",
    "ai/v1/chat/completions: glm-5.2",
    "ai/v1/completions",
    "ai/v1/embeddings",
    "ai/v1/responses",
    "ai/v1/messages",
    "ai/models/search",
    "ai/models/schema",
    "ai/tasks/search",
    "ai-gateway/gateways/{id}/url",
    "accounts",
    "tokens/verify",
    "gateway: workers-ai/{model}",
    "gateway: …/chat/completions",
    "gateway: …/embeddings",
    "env.AI.run()",
    "env.AI.gateway()",
    "any other path",
]


def table() -> str:
    """Returns the table as Markdown.

    The table has a row for each endpoint or method, and a column for each provenance, which says
    how a response is known.
    """
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for surface in _ORDER:
        cells = [", ".join(_shown(surface, provenance)) for provenance in COLUMNS]
        lines.append(f"| `{surface}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(surface: str, provenance: str) -> list[str]:
    """Returns the texts in one cell of the table: what the snapshots show, error codes last.

    Omits texts that are also in a cell further to the left.
    """
    better = COLUMNS[: COLUMNS.index(provenance)]
    shown = {s.shows for s in SNAPSHOTS if (s.surface, s.provenance) == (surface, provenance)}
    known = {s.shows for s in SNAPSHOTS if s.surface == surface and s.provenance in better}
    cells = sorted(shown - known, key=lambda what: (what[0].isdigit(), what))
    return [cell.replace("answer", "response") for cell in cells]  # snapshots use an older word


if __name__ == "__main__":
    print(table())
