"""The service's models for embeddings and for ranking: their traits, prices and weights."""

from __future__ import annotations

from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.embedding_traits import EmbeddingTraits
from workers_ai_emulator.models.family import Family
from workers_ai_emulator.models.licenses import APACHE, GEMMA, MIT
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import HubFile, License, ModelSpec, weights_file
from workers_ai_emulator.models.task import TEXT_CLASSIFICATION, TEXT_EMBEDDINGS


def _bge_en(dimensions: int) -> EmbeddingTraits:
    return EmbeddingTraits("bge-en", dimensions, Pooling.MEAN, max_tokens=512)


def _model(
    name: str,
    family: str,
    traits: EmbeddingTraits,
    price: float,
    hub_file: HubFile | None,
    license: License,
) -> ModelSpec:
    """Returns the spec of a model. `price`: neurons per million input tokens."""
    short_name = name.rpartition("/")[2]
    return ModelSpec(
        name,
        weights_file(name, hub_file),
        hub_file,
        license,
        stand_in="F16",
        family=Family(f"families/{family}.json"),
        price=Price(price, 0),
        card_file=f"{short_name}.json",
        task=TEXT_EMBEDDINGS if traits.dimensions else TEXT_CLASSIFICATION,
        embedding=traits,
    )


# The prices are those of the pricing page of February 2026 [documented]. Those of bge-m3, qwen3 and
# the reranker were recorded with more digits. The page has no price of embeddinggemma-300m.
EMBEDDING_MODELS = (
    _model(
        "@cf/baai/bge-small-en-v1.5",
        "embeddings-bge-en",
        _bge_en(384),
        1841,
        HubFile(
            "CompendiumLabs/bge-small-en-v1.5-gguf", "bge-small-en-v1.5-q8_0.gguf", size=36_700_000
        ),
        MIT,
    ),
    _model(
        "@cf/baai/bge-base-en-v1.5",
        "embeddings-bge-en",
        _bge_en(768),
        6058,
        HubFile(
            "CompendiumLabs/bge-base-en-v1.5-gguf", "bge-base-en-v1.5-q8_0.gguf", size=118_000_000
        ),
        MIT,
    ),
    _model(
        "@cf/baai/bge-large-en-v1.5",
        "embeddings-bge-en",
        _bge_en(1024),
        18_582,
        HubFile(
            "CompendiumLabs/bge-large-en-v1.5-gguf", "bge-large-en-v1.5-q8_0.gguf", size=358_000_000
        ),
        MIT,
    ),
    _model(
        "@cf/baai/bge-m3",
        "embeddings-bge-m3",
        EmbeddingTraits(
            "bge-m3",
            1024,
            Pooling.CLS,
            max_tokens=8192,
            max_request_tokens=60_000,
            truncates=False,
        ),
        1074.587868749014,  # recorded: 20 tokens cost 0.02149175737498028 neurons
        HubFile("ggml-org/bge-m3-Q8_0-GGUF", "bge-m3-q8_0.gguf", "9eba04c5", 635_000_000),
        MIT,
    ),
    _model(
        "@cf/google/embeddinggemma-300m",
        "embeddings-gemma",
        EmbeddingTraits("gemma", 768, Pooling.MEAN, max_tokens=2048),
        0,
        HubFile(
            "ggml-org/embeddinggemma-300M-GGUF", "embeddinggemma-300M-Q8_0.gguf", size=333_590_944
        ),
        GEMMA,
    ),
    _model(
        "@cf/qwen/qwen3-embedding-0.6b",
        "embeddings-qwen3",
        EmbeddingTraits("qwen3", 1024, Pooling.LAST, max_tokens=8192),
        1074.587868749014,  # recorded: 3 tokens cost 0.0032237636062470423 neurons
        HubFile(
            "Qwen/Qwen3-Embedding-0.6B-GGUF", "Qwen3-Embedding-0.6B-Q8_0.gguf", size=639_000_000
        ),
        APACHE,
    ),
    # no file to download: llama.cpp does not support the model
    _model(
        "@cf/pfnet/plamo-embedding-1b",
        "embeddings-plamo",
        EmbeddingTraits("gemma", 2048, Pooling.MEAN, max_tokens=4096),
        1689,
        None,
        APACHE,
    ),
    # no file to download: the common GGUF files are those of another reranker
    _model(
        "@cf/baai/bge-reranker-base",
        "reranker-bge",
        EmbeddingTraits("reranker", 0, Pooling.RANK, max_tokens=512),
        282.62880208498876,  # recorded: 34 tokens cost 0.009609379270889618 neurons
        None,
        MIT,
    ),
)
