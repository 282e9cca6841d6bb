"""The tools that run a Worker locally, in fixed versions, configured as docs/workers.md says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests import npm
from tests.server import ACCOUNT_ID
from tests.workers.project import FILES, CalledWorker, Project, Response, Worker


@dataclass(frozen=True, slots=True)
class Packages:
    """npm packages that are installed in a folder of the tests' cache."""

    name: str
    specs: tuple[str, ...]

    @property
    def node_modules(self) -> Path:
        return npm.cache_folder("workers") / self.name / "node_modules"

    def install(self) -> None:
        npm.install(self.specs, self.node_modules.parent)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that runs a Worker locally. `run` configures a project and runs its Worker.

    `reads_to_the_end`: whether the tool reads the whole response after the Worker cancelled it.
    """

    name: str
    packages: Packages
    run: Callable[[Project], AbstractContextManager[Worker]]
    reads_to_the_end: bool = False

    def __str__(self) -> str:
        return self.name


def with_local_file(project: Project) -> AbstractContextManager[Worker]:
    """Runs wrangler with the configuration file that `worker init` writes."""
    file = project.emulator("worker", "init").strip()
    return project.serve(project.npx("wrangler"), "dev", "-c", file)


def with_local_environment(project: Project) -> AbstractContextManager[Worker]:
    """Runs wrangler with the output of `worker config wrangler` in its configuration file."""
    project.paste(project.block("wrangler", "wrangler.jsonc"), "wrangler.jsonc", "{")
    return project.serve(project.npx("wrangler"), "dev", "-e", "local")


def with_api_url(project: Project) -> AbstractContextManager[Worker]:
    """Runs wrangler with the three environment variables that wrangler 3.20 to 4.35 needs."""
    return project.serve(
        project.npx("wrangler"),
        "dev",
        CLOUDFLARE_API_BASE_URL=project.server.base_url,
        CLOUDFLARE_API_TOKEN="any",
        CLOUDFLARE_ACCOUNT_ID=ACCOUNT_ID,
    )


def with_exec(project: Project) -> AbstractContextManager[Worker]:
    """Runs wrangler under `exec`, without changes to its configuration."""
    return project.serve(*project.under_exec(project.npx("wrangler"), "dev"))


def with_pages(project: Project) -> AbstractContextManager[Worker]:
    """Runs the Worker as part of a Pages project, in wrangler under `exec`."""
    public = project.folder / "public"
    public.mkdir()
    shutil.copy(project.folder / "worker.mjs", public / "_worker.js")
    options = ["--ai", "AI", "--compatibility-date", "2024-01-01", "--port", "8787"]
    return project.serve(
        *project.under_exec(project.npx("wrangler"), "pages", "dev", "public", *options)
    )


def with_miniflare(project: Project) -> AbstractContextManager[Worker]:
    """Runs Miniflare with the output of `worker config miniflare` in its program."""
    project.paste(project.block("miniflare", "Miniflare 4"), "miniflare.mjs", "new Miniflare({")
    return project.serve("node", "miniflare.mjs")


@contextmanager
def with_vitest(project: Project, heading: str) -> Iterator[Worker]:
    """Runs a vitest test that calls the Worker, with the output of `worker config vitest`.

    `heading`: a text in the heading of the block to use from that output.
    """
    (project.folder / "vitest.config.mjs").write_text(project.block("vitest", heading), "utf-8")
    report = project.folder / "report.json"
    log = project.run(project.npx("vitest"), "run", "--reporter=json", f"--outputFile={report}")
    results = json.loads(report.read_text("utf-8"))["testResults"][0]["assertionResults"]
    responses = {result["title"]: Response(**result["meta"]["response"]) for result in results}
    yield CalledWorker(log, responses)


def wrangler(version: str) -> Packages:
    return Packages(f"wrangler-{version}", (f"wrangler@{version}",))


WRANGLER_4 = wrangler("4.86.0")  # the last version for node 20
WRANGLER_3 = wrangler("3.114.17")
# Versions of wrangler at which its behaviour changes. docs/workers.md names these versions.
OLDEST_WITH_NODE_20 = wrangler("3.33.0")
LAST_WITH_VARIABLES = wrangler("4.35.0")
FIRST_WITH_PLUGINS = wrangler("4.36.0")
LAST_WITH_EXCHANGE = wrangler("4.71.0")  # the last version that calls the URLs of a remote session
CORNERS = (OLDEST_WITH_NODE_20, LAST_WITH_VARIABLES, FIRST_WITH_PLUGINS, LAST_WITH_EXCHANGE)
VITEST_POOL = Packages(
    "vitest-pool-workers-0.12.19", ("@cloudflare/vitest-pool-workers@0.12.19", "vitest@3.2.7")
)
VITEST_PLUGIN = Packages(
    "vitest-plugin-1.5.0", ("@cloudflare/vitest-plugin@1.5.0", "vitest@4.1.12")
)
VITESTS = (VITEST_POOL, VITEST_PLUGIN)
TOOLS = [
    Tool("wrangler-4.86.0-file", WRANGLER_4, with_local_file),
    Tool("wrangler-4.86.0-environment", WRANGLER_4, with_local_environment),
    Tool("wrangler-4.86.0-exec", WRANGLER_4, with_exec),
    Tool("wrangler-3.114.17", WRANGLER_3, with_api_url, reads_to_the_end=True),
    Tool("wrangler-3.114.17-exec", WRANGLER_3, with_exec),
    Tool("miniflare-4.20260426.0", WRANGLER_4, with_miniflare),
    Tool(
        "vitest-pool-workers-0.12.19",
        VITEST_POOL,
        partial(with_vitest, heading="pool-workers 0.12"),
    ),
    Tool("vitest-plugin-1.5.0", VITEST_PLUGIN, partial(with_vitest, heading="vitest-plugin")),
]
SDKS = {
    "1.0.53": Packages("ai-1.0.53", ("@cloudflare/ai@1.0.53",)),
    "1.1.0": Packages("ai-1.1.0", ("@cloudflare/ai@1.1.0",)),
    # SDK 1.2.2 imports base64-js and mustache without declaring them as dependencies.
    "1.2.2": Packages("ai-1.2.2", ("@cloudflare/ai@1.2.2", "base64-js@1.5.1", "mustache@4.2.0")),
}
AGENTS = Packages(
    "agents", ("workers-ai-provider@4.0.0", "ai@7.0.173", "@cloudflare/ai-utils@1.0.1")
)
RAG = Packages(
    "rag",
    (
        "workers-ai-provider@4.0.0",
        "ai@7.0.173",
        "hono@4.13.19",
        "@langchain/cloudflare@1.1.0",
        "@langchain/core@1.4.0",
    ),
)


def install_all() -> None:
    for packages in {*(tool.packages for tool in TOOLS), *CORNERS, *SDKS.values(), AGENTS, RAG}:
        packages.install()


def bundle(worker_module: Path) -> None:
    """Bundles the Worker and the SDKs into the file `worker_module`, with wrangler's esbuild."""
    esbuild = str(WRANGLER_4.node_modules / ".bin" / "esbuild")
    options = ["--bundle", "--format=esm", "--platform=neutral", "--main-fields=module,main"]
    aliases = [
        f"--alias:ai-{version}={packages.node_modules / '@cloudflare' / 'ai'}"
        for version, packages in SDKS.items()
    ]
    command = [esbuild, "worker.js", f"--outfile={worker_module}", *options, *aliases]
    subprocess.run(command, cwd=FILES, check=True, capture_output=True, timeout=60)
