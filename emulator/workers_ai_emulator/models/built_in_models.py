"""The text-generation models of the service: how it treats them, and where their weights are.

The models' published entries and JSON schemas are in the folder `models/cards/`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.models.family import Family
from workers_ai_emulator.models.licenses import APACHE, GEMMA, MIT
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import (
    ADDED_FAMILY,
    ADDED_PRICE,
    HubFile,
    License,
    ModelSpec,
    weights_file,
)
from workers_ai_emulator.models.traits import Traits

# The service retired most of these models on one day [documented, release notes of 2026-05-08].
_RETIRED = date(2026, 5, 30)

_GB = 10**9

# ── licences ──────────────────────────────────────────────────────────────────────────────────

_LLAMA_2 = License(
    "Llama 2 Community License",
    "https://ai.meta.com/llama/license/",
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. "
    "All Rights Reserved.",
)


def _llama(version: str, folder: str) -> License:
    return License(
        f"Llama {version} Community License",
        f"https://github.com/meta-llama/llama-models/blob/main/models/{folder}/LICENSE",
        f"Llama {version} is licensed under the Llama {version} Community License, Copyright © "
        "Meta Platforms, Inc. All Rights Reserved.",
    )


_LLAMA_3, _LLAMA_3_1 = _llama("3", "llama3"), _llama("3.1", "llama3_1")
_LLAMA_3_2, _LLAMA_3_3 = _llama("3.2", "llama3_2"), _llama("3.3", "llama3_3")
_LLAMA_4 = _llama("4", "llama4")
_GEMMA_4 = License("Gemma 4 License", "https://ai.google.dev/gemma/docs/gemma_4_license")

# ── traits ────────────────────────────────────────────────────────────────────────────────────
#
# `has_tools`: the model's card has the property `function_calling` [documented]. The service also
# offers tools to three models without this property, because their schemas have the key `tools`
# and their chat templates use it [inferred].
# `json_mode`: the model is in the documented list of models with JSON mode, or a response was
# recorded. Models that are in no list have none, because the service refused one of them
# [recorded for llama-3.1-8b-instruct-fp8, inferred for the others].

_NO_TOOLS = Traits()
_JSON = Traits(json_mode="object")
_TOOLS = Traits(has_tools=True)
_VISION = Traits(json_mode="object", has_image=True)
_TOOLS_AND_JSON = Traits(has_tools=True, json_mode="object")
# The limits of llama-3.3, gpt-oss-120b, nemotron, qwen3.8 and deepseek-v4-pro are measured at the
# service, 2026-10; that of gpt-oss-20b is inferred. The results of llama-3.3 and llama-4-scout have
# both forms [recorded, 2026-10 and 2026-09].
_LLAMA_3_3_TRAITS = replace(_TOOLS_AND_JSON, form="both", max_temperature=2)
# The result of `guided_json` is a text that contains JSON [recorded for llama-4-scout, inferred for
# the others].
_GUIDED = Traits(json_mode="text", guided_json=True)
_GUIDED_TOOLS = Traits(has_tools=True, json_mode="text", guided_json=True)
_BOTH_FORMS_GUIDED = replace(_GUIDED_TOOLS, form="both")
_QWQ = Traits(has_tools=True, json_mode="text", guided_json=True, thinking="in_text")
_R1 = Traits(json_mode="object", thinking="in_text")
# vLLM runs glm-4.7-flash: its responses have the key `reasoning`, which SGLang does not send
# [inferred from a measurement, 2026-09].
_VLLM = Traits("choices", "vllm", has_tools=True, json_mode="text", thinking="on")
_GPT_OSS = replace(_VLLM, thinking="always", max_temperature=2)
_NEMOTRON = replace(_VLLM, reasoning_keys=("reasoning",), refuses_top_p_0=True)
# The server is recorded for gemma-4, glm-5.2, glm-5.3-flash and kimi-k2.6, and inferred for others.
_SGLANG = Traits("choices", "sglang", has_tools=True, json_mode="text", thinking="on")
_SGLANG_TOP_P = replace(_SGLANG, refuses_top_p_0=True)
_QWEN_3_8 = replace(_SGLANG_TOP_P, needs_system_first=True)  # [recorded, 2026-09-13]
# Whether the reasoning can be switched off is documented in the schemas.
_SGLANG_ALWAYS = replace(_SGLANG, thinking="always")
# `thinking` replaces `enable_thinking` [documented, 2026-04-20], which does not switch the
# reasoning off [measured, 2026-10].
_KIMI_K2_6 = replace(_SGLANG, thinking_key="thinking")
# Its schema is that of qwen3-30b, whose keys are those of vLLM; its chat template, Gemma 3's, has
# no tools [inferred].
_SEA_LION = Traits("choices", "vllm", json_mode="text")

# ── families ──────────────────────────────────────────────────────────────────────────────────


def _family(name: str) -> Family:
    return Family(f"families/{name}.json")


_TEXTGEN, _WIDE_RANGES = _family("textgen"), _family("textgen-wide-ranges")
_TOOL_CALL_ID = _family("guided-json-tool-call-id")
_GPT_OSS_FAMILY = _family("gpt-oss")
_BATCH_EFFORT_MAX = _family("chat-completions-batch-effort-max")
_BATCH_EFFORT_NONE = _family("chat-completions-batch-effort-none")


def _model(
    name: str,
    family: Family,
    traits: Traits,
    price: Price | None = None,
    hub_file: HubFile | None = None,
    license: License | None = None,
    *,
    stand_in: WeightsType = "Q8_0",
    is_retired: bool = False,
) -> ModelSpec:
    """Returns the spec of a model of the service. `price`: None if no price is published."""
    short_name = name.rpartition("/")[2]
    return ModelSpec(
        name,
        weights_file(name, hub_file),
        hub_file,
        license,
        stand_in,
        traits=traits,
        family=family,
        price=price or ADDED_PRICE,
        card_file=f"{short_name}.json",
        retired_on=_RETIRED if is_retired else None,
    )


# ── models ────────────────────────────────────────────────────────────────────────────────────

_LLAMA_2_FILE = HubFile(
    "TheBloke/Llama-2-7B-Chat-GGUF",
    "llama-2-7b-chat.Q8_0.gguf",
    "191239b3e26b2882fb562ffccdd1cf0f65402adb",
    7_161_089_728,
)
_LLAMA_3_1_FILE = HubFile(
    "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
    "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
    "bf5b95e96dac0462e2a09145ec66cae9a3f12067",
    4_920_739_232,
)
_MISTRAL_FILE = HubFile(
    "TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
    "mistral-7b-instruct-v0.2.Q4_K_M.gguf",
    "3a6fbf4a41a1d52e415a4958cde6856d34b2db93",
    int(4.4 * _GB),
)

# The prices are those of the pricing page of February 2026
# [developers.cloudflare.com/workers-ai/platform/pricing]. A price in USD is that of the model's
# card, because the page does not have the model.
BUILT_IN_MODELS = (
    _model(
        "@cf/meta/llama-2-7b-chat-int8",
        ADDED_FAMILY,
        _NO_TOOLS,
        # Since 2024, Cloudflare has run another model under this name, and charges the price of
        # that other model.
        Price(11_161, 24_215),
        _LLAMA_2_FILE,
        _LLAMA_2,
        is_retired=True,
    ),
    _model(
        "@cf/meta/llama-2-7b-chat-fp16",
        Family("llama-2-7b-chat-fp16.json"),
        _NO_TOOLS,
        ADDED_PRICE,
        HubFile(
            "second-state/Llama-2-7B-Chat-GGUF",
            "Llama-2-7b-chat-hf-f16.gguf",
            "064fe43ea8c1e1f93477ef4a170bdc2b244ef02c",
            int(13.5 * _GB),
        ),
        _LLAMA_2,
        stand_in="F16",
        is_retired=True,
    ),
    _model(
        "@cf/meta/llama-3-8b-instruct",
        _TEXTGEN,
        _JSON,
        Price(25_608, 75_147),
        HubFile(
            "bartowski/Meta-Llama-3-8B-Instruct-GGUF",
            "Meta-Llama-3-8B-Instruct-Q4_K_M.gguf",
            size=int(4.9 * _GB),
        ),
        _LLAMA_3,
        is_retired=True,
    ),
    _model(
        "@cf/meta/llama-3.1-8b-instruct",
        _WIDE_RANGES,
        _JSON,
        Price(25_608, 75_147),
        _LLAMA_3_1_FILE,
        _LLAMA_3_1,
        is_retired=True,
    ),
    _model(
        "@cf/meta/llama-3.1-8b-instruct-awq",
        _TEXTGEN,
        _NO_TOOLS,
        Price(11_161, 24_215),
        _LLAMA_3_1_FILE,
        _LLAMA_3_1,
        is_retired=True,
    ),
    _model(
        "@cf/meta/llama-3.1-8b-instruct-fast",
        _family("textgen-alphabetical"),
        _TOOLS_AND_JSON,
        Price(4_119, 34_868),  # the price of `-fp8-fast` [inferred]
        _LLAMA_3_1_FILE,
        _LLAMA_3_1,
    ),
    _model(
        "@cf/meta/llama-3.1-8b-instruct-fp8",
        _TEXTGEN,
        _NO_TOOLS,
        Price(13_778, 26_128),
        _LLAMA_3_1_FILE,
        _LLAMA_3_1,
    ),
    _model(
        "@cf/meta/llama-3.2-1b-instruct",
        _TEXTGEN,
        _NO_TOOLS,
        Price(2_457, 18_252),
        HubFile(
            "bartowski/Llama-3.2-1B-Instruct-GGUF",
            "Llama-3.2-1B-Instruct-Q4_K_M.gguf",
            "067b946cf014b7c697f3654f621d577a3e3afd1c",
            807_694_464,
        ),
        _LLAMA_3_2,
    ),
    _model(
        "@cf/meta/llama-3.2-3b-instruct",
        _TEXTGEN,
        _NO_TOOLS,
        Price(4_625, 30_475),
        HubFile(
            "bartowski/Llama-3.2-3B-Instruct-GGUF",
            "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
            "5ab33fa94d1d04e903623ae72c95d1696f09f9e8",
            2_019_377_696,
        ),
        _LLAMA_3_2,
    ),
    # no file to download: llama.cpp does not support the layers for images, which its weights have
    _model(
        "@cf/meta/llama-3.2-11b-vision-instruct",
        _family("textgen-vision"),
        _VISION,
        Price(4_410, 61_493),
    ),
    _model(
        "@cf/meta/llama-3.3-70b-instruct-fp8-fast",
        _family("textgen-batch-llama33"),
        _LLAMA_3_3_TRAITS,
        Price(26_667.67, 204_805.33),  # with this price, all recorded costs of 2026 are equal
        HubFile(
            "bartowski/Llama-3.3-70B-Instruct-GGUF",
            "Llama-3.3-70B-Instruct-Q4_K_M.gguf",
            size=int(42.5 * _GB),
        ),
        _LLAMA_3_3,
    ),
    _model(
        "@cf/meta/llama-4-scout-17b-16e-instruct",
        _family("guided-json-scout-2025"),
        _BOTH_FORMS_GUIDED,
        Price(24_545, 77_273),
        HubFile(
            "unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF",
            "Q4_K_M/Llama-4-Scout-17B-16E-Instruct-Q4_K_M-00001-of-00002.gguf",
            size=65 * _GB,
        ),
        _LLAMA_4,
    ),
    _model(
        "@cf/meta/llama-guard-3-8b",
        _family("llama-guard"),
        _JSON,
        Price(44_003, 2_730),
        HubFile(
            "QuantFactory/Llama-Guard-3-8B-GGUF",
            "Llama-Guard-3-8B.Q4_K_M.gguf",
            size=int(4.9 * _GB),
        ),
        _LLAMA_3_1,
    ),
    _model(
        "@cf/meta-llama/llama-2-7b-chat-hf-lora",
        _TEXTGEN,
        _NO_TOOLS,
        None,
        _LLAMA_2_FILE,
        _LLAMA_2,
    ),
    _model(
        "@cf/mistral/mistral-7b-instruct-v0.1",
        _TEXTGEN,
        _NO_TOOLS,
        Price(10_000, 17_300),
        HubFile(
            "TheBloke/Mistral-7B-Instruct-v0.1-GGUF",
            "mistral-7b-instruct-v0.1.Q4_K_M.gguf",
            size=int(4.4 * _GB),
        ),
        APACHE,
        is_retired=True,
    ),
    _model(
        "@hf/mistral/mistral-7b-instruct-v0.2",
        _TEXTGEN,
        _NO_TOOLS,
        None,
        _MISTRAL_FILE,
        APACHE,
        is_retired=True,
    ),
    _model(
        "@cf/mistral/mistral-7b-instruct-v0.2-lora",
        _TEXTGEN,
        _NO_TOOLS,
        None,
        _MISTRAL_FILE,
        APACHE,
    ),
    _model(
        "@cf/mistralai/mistral-small-3.1-24b-instruct",
        _TOOL_CALL_ID,
        _GUIDED_TOOLS,
        Price(31_876, 50_488),
        HubFile(
            "bartowski/mistralai_Mistral-Small-3.1-24B-Instruct-2503-GGUF",
            "mistralai_Mistral-Small-3.1-24B-Instruct-2503-Q4_K_M.gguf",
            size=int(14.3 * _GB),
        ),
        APACHE,
    ),
    _model(
        "@hf/nousresearch/hermes-2-pro-mistral-7b",
        _TEXTGEN,
        _TOOLS_AND_JSON,
        None,
        HubFile(
            "NousResearch/Hermes-2-Pro-Mistral-7B-GGUF",
            "Hermes-2-Pro-Mistral-7B.Q4_K_M.gguf",
            size=int(4.4 * _GB),
        ),
        APACHE,
        is_retired=True,
    ),
    # The two have no file to download: there is no common one.
    _model("@cf/google/gemma-2b-it-lora", _TEXTGEN, _NO_TOOLS),
    _model("@cf/google/gemma-7b-it-lora", _TEXTGEN, _NO_TOOLS),
    _model(
        "@cf/google/gemma-3-12b-it",
        _family("guided-json"),
        _GUIDED,
        Price(31_371, 50_560),
        HubFile(
            "ggml-org/gemma-3-12b-it-GGUF",
            "gemma-3-12b-it-Q4_K_M.gguf",
            size=int(7.3 * _GB),
        ),
        GEMMA,
        is_retired=True,
    ),
    _model(
        "@cf/google/gemma-4-26b-a4b-it",
        _family("chat-completions-batch-skip-special-tokens"),
        _SGLANG,
        Price.in_usd(0.1, 0.3),
        HubFile(
            "unsloth/gemma-4-26B-A4B-it-GGUF",
            "gemma-4-26B-A4B-it-UD-Q4_K_M.gguf",
            "8bacec5c8e829a25502cdfe3c3f5b6aabee3218c",
            17 * _GB,
        ),
        _GEMMA_4,
    ),
    _model(
        "@cf/aisingapore/gemma-sea-lion-v4-27b-it",
        _family("textgen-batch-choices"),
        _SEA_LION,
        Price(31_876, 50_488),
        HubFile(
            "aisingapore/Gemma-SEA-LION-v4-27B-IT-GGUF",
            "Gemma-SEA-LION-v4-27B-IT-Q4_K_M.gguf",
            size=int(16.5 * _GB),
        ),
        GEMMA,
    ),
    _model(
        "@cf/qwen/qwen2.5-coder-32b-instruct",
        _WIDE_RANGES,
        _TOOLS,
        Price(60_000, 90_909),
        HubFile(
            "bartowski/Qwen2.5-Coder-32B-Instruct-GGUF",
            "Qwen2.5-Coder-32B-Instruct-Q4_K_M.gguf",
            size=int(19.9 * _GB),
        ),
        APACHE,
    ),
    _model(
        "@cf/qwen/qwq-32b",
        _TOOL_CALL_ID,
        _QWQ,
        Price(60_000, 90_909),
        HubFile("Qwen/QwQ-32B-GGUF", "qwq-32b-q4_k_m.gguf", size=int(19.9 * _GB)),
        APACHE,
    ),
    _model(
        "@cf/qwen/qwen3-30b-a3b-fp8",
        _family("textgen-batch-choices"),
        _VLLM,
        Price(4_625, 30_475),
        HubFile("Qwen/Qwen3-30B-A3B-GGUF", "Qwen3-30B-A3B-Q4_K_M.gguf", size=18_556_685_824),
        APACHE,
    ),
    # On SGLang, as are glm and kimi, whose schema it has apart from the efforts [inferred].
    # `enable_thinking` switches its reasoning off [reported 2026-10]. No file to download: its
    # weights have recurrent layers.
    _model(
        "@cf/qwen/qwen3.8-27b",
        _family("chat-completions-batch-effort-xhigh"),
        _QWEN_3_8,
        Price.in_usd(0.45, 3.2),
    ),
    _model(
        "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b",
        _TEXTGEN,
        _R1,
        Price(45_170, 443_756),
        HubFile(
            "bartowski/DeepSeek-R1-Distill-Qwen-32B-GGUF",
            "DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf",
            size=int(19.9 * _GB),
        ),
        MIT,
    ),
    _model(
        "@cf/openai/gpt-oss-20b",
        _GPT_OSS_FAMILY,
        _GPT_OSS,
        Price(18_182, 27_273),
        HubFile(
            "ggml-org/gpt-oss-20b-GGUF",
            "gpt-oss-20b-MXFP4.gguf",
            "ef9b12f2ff56c69cf32153a02784e7a3c88bf524",
            12_109_566_624,
        ),
        APACHE,
    ),
    _model(
        "@cf/openai/gpt-oss-120b",
        _GPT_OSS_FAMILY,
        _GPT_OSS,
        Price(31_818, 68_182),
        HubFile(
            "ggml-org/gpt-oss-120b-GGUF",
            "gpt-oss-120b-MXFP4.gguf",
            "238abdd290bb874b90a5da1b4549881b7d05c091",
            63_387_346_208,
        ),
        APACHE,
    ),
    _model(
        "@cf/zai-org/glm-4.7-flash",
        _family("chat-completions"),
        _VLLM,
        Price(5_500, 36_400),
        HubFile(
            "unsloth/GLM-4.7-Flash-GGUF",
            "GLM-4.7-Flash-Q4_K_M.gguf",
            size=18 * _GB,
        ),
        MIT,
    ),
    # `pull` cannot download the weights of the largest models: they have hundreds of gigabytes, or
    # in the case of nemotron also recurrent layers.
    replace(
        _model(
            "@cf/zai-org/glm-5.2",
            _family("chat-completions-batch"),
            _SGLANG,
            Price.in_usd(1.4, 4.4),
        ),
        retired_on=date(2026, 11, 20),  # as planned by the service [documented]
    ),
    _model("@cf/zai-org/glm-5.3", _BATCH_EFFORT_MAX, _SGLANG_ALWAYS, Price.in_usd(1.4, 4.4)),
    _model(
        "@cf/zai-org/glm-5.3-flash",
        _BATCH_EFFORT_MAX,
        _SGLANG_ALWAYS,
        Price.in_usd(0.15, 0.5),
    ),
    _model(
        "@cf/moonshotai/kimi-k2.6",
        _family("chat-completions-batch-effort-high"),
        _KIMI_K2_6,
        Price.in_usd(0.95, 4.0),
    ),
    _model(
        "@cf/moonshotai/kimi-k2.7-code",
        _family("chat-completions-batch-always-thinking"),
        _SGLANG_ALWAYS,
        Price.in_usd(0.95, 4.0),
    ),
    _model(
        "@cf/nvidia/nemotron-3-120b-a12b",
        _family("chat-completions-low-effort"),
        _NEMOTRON,
        Price(45_000, 136_000),  # recorded; the card has rounded prices
    ),
    _model(
        "@cf/deepseek-ai/deepseek-v4-flash-0731",
        _BATCH_EFFORT_NONE,
        _SGLANG,
        Price.in_usd(0.44, 1.32),
    ),
    # The efforts in the schema and the card are those of deepseek-v4-flash, which the service's
    # list of 2026-09-29 also has for this model [inferred].
    _model(
        "@cf/deepseek-ai/deepseek-v4-pro-0813",
        _BATCH_EFFORT_NONE,
        _SGLANG_TOP_P,
        Price.in_usd(1.32, 3.96),
    ),
    _model(
        "@cf/ibm-granite/granite-4.0-h-micro",
        _TEXTGEN,
        _TOOLS,
        Price(1_542, 10_158),
        # no file to download: the engine does not support recurrent layers, which its weights have
    ),
    # The service offers these two only to selected accounts. Their cards have no schema and no
    # price; schema and response form are those of most models [inferred]. Of apertus, there is no
    # common file to download.
    _model("@cf/swiss-ai/apertus-v1.5-8b", _TEXTGEN, _TOOLS),
    _model(
        "@cf/utter-project/eurollm-9b-it",
        _TEXTGEN,
        _TOOLS,
        None,
        HubFile(
            "bartowski/EuroLLM-9B-Instruct-GGUF",
            "EuroLLM-9B-Instruct-Q4_K_M.gguf",
            size=5_582_838_496,
        ),
        APACHE,
    ),
)
