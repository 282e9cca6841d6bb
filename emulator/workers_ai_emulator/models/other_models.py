"""Names of the service that are not in the catalogue: old names, retired models, other tasks."""

from __future__ import annotations

from datetime import date

# Requests for these names run another model. [developers.cloudflare.com/changelog, 2026-05-08;
# recorded for kimi-k2.5]
ALIASES = {"@cf/moonshotai/kimi-k2.5": "@cf/moonshotai/kimi-k2.6"}


def current_name(name: str) -> str:
    """Returns the name of the model that runs for a name, which may be an old one."""
    return ALIASES.get(name, name)


# The service's other models, with what they do. [developers.cloudflare.com/workers-ai/models, 2026]
_SPEECH_TO_TEXT = "a model that converts speech to text"
_TEXT_TO_SPEECH = "a model that converts text to speech"
_IMAGES = "a model that generates images"
_IMAGE_TO_TEXT = "a model that describes images"
_TRANSLATION = "a model that translates"
NOT_EMULATED = {
    "@cf/ai4bharat/indictrans2-en-indic-1B": _TRANSLATION,
    "@cf/black-forest-labs/flux-1-schnell": _IMAGES,
    "@cf/black-forest-labs/flux-2-dev": _IMAGES,
    "@cf/black-forest-labs/flux-2-klein-4b": _IMAGES,
    "@cf/black-forest-labs/flux-2-klein-9b": _IMAGES,
    "@cf/bytedance/stable-diffusion-xl-lightning": _IMAGES,
    "@cf/cloudflare/clairic": "a model that extracts values from texts",
    "@cf/cloudflare/clef-omni": "a model that decides about texts, images, audio and video",
    "@cf/deepgram/aura-1": _TEXT_TO_SPEECH,
    "@cf/deepgram/aura-2-en": _TEXT_TO_SPEECH,
    "@cf/deepgram/aura-2-es": _TEXT_TO_SPEECH,
    "@cf/deepgram/flux": _SPEECH_TO_TEXT,
    "@cf/deepgram/nova-3": _SPEECH_TO_TEXT,
    "@cf/facebook/detr-resnet-50": "a model that detects objects in images",
    "@cf/huggingface/distilbert-sst-2-int8": "a model that classifies texts",
    "@cf/leonardo/lucid-origin": _IMAGES,
    "@cf/leonardo/phoenix-1.0": _IMAGES,
    "@cf/llava-hf/llava-1.5-7b-hf": _IMAGE_TO_TEXT,
    "@cf/lykon/dreamshaper-8-lcm": _IMAGES,
    "@cf/meta/m2m100-1.2b": _TRANSLATION,
    "@cf/microsoft/resnet-50": "a model that classifies images",
    "@cf/moondream/moondream3.1-9B-A2B": _IMAGE_TO_TEXT,
    "@cf/myshell-ai/melotts": _TEXT_TO_SPEECH,
    "@cf/openai/whisper": _SPEECH_TO_TEXT,
    "@cf/openai/whisper-large-v3-turbo": _SPEECH_TO_TEXT,
    "@cf/openai/whisper-tiny-en": _SPEECH_TO_TEXT,
    "@cf/pipecat-ai/smart-turn-v2": "a model that detects the end of a speaker's turn",
    "@cf/runwayml/stable-diffusion-v1-5-img2img": _IMAGES,
    "@cf/runwayml/stable-diffusion-v1-5-inpainting": _IMAGES,
    "@cf/stabilityai/stable-diffusion-xl-base-1.0": _IMAGES,
}

# Retired models that the emulator does not offer, with the day on which the service retired them.
# Most errors and days are recorded (2026-06); docs/parity.md lists those that are documented or
# inferred.
_2025 = date(2025, 10, 1)
_2026 = date(2026, 5, 30)
RETIRED = {
    "@cf/deepseek-ai/deepseek-math-7b-instruct": _2025,
    "@cf/defog/sqlcoder-7b-2": _2026,
    "@cf/facebook/bart-large-cnn": _2026,
    "@cf/fblgit/una-cybertron-7b-v2-bf16": _2025,
    "@cf/meta/llama-3-8b-instruct-awq": _2026,
    "@cf/meta/llama-3.1-70b-instruct": _2026,
    "@cf/microsoft/phi-2": _2026,
    "@cf/openchat/openchat-3.5-0106": _2025,
    "@cf/qwen/qwen1.5-0.5b-chat": _2025,
    "@cf/qwen/qwen1.5-1.8b-chat": _2025,
    "@cf/qwen/qwen1.5-14b-chat-awq": _2025,
    "@cf/qwen/qwen1.5-7b-chat-awq": _2025,
    "@cf/thebloke/discolm-german-7b-v1-awq": _2025,
    "@cf/tiiuae/falcon-7b-instruct": _2025,
    "@cf/tinyllama/tinyllama-1.1b-chat-v1.0": _2025,
    "@cf/unum/uform-gen2-qwen-500m": _2026,
    "@hf/google/gemma-7b-it": _2026,
    "@hf/meta-llama/meta-llama-3-8b-instruct": _2026,
    "@hf/nexusflow/starling-lm-7b-beta": _2025,
    "@hf/thebloke/deepseek-coder-6.7b-base-awq": _2025,
    "@hf/thebloke/deepseek-coder-6.7b-instruct-awq": _2025,
    "@hf/thebloke/llama-2-13b-chat-awq": _2025,
    "@hf/thebloke/mistral-7b-instruct-v0.1-awq": _2025,
    "@hf/thebloke/neural-chat-7b-v3-1-awq": _2025,
    "@hf/thebloke/openhermes-2.5-mistral-7b-awq": _2025,
    "@hf/thebloke/zephyr-7b-beta-awq": _2025,
}
