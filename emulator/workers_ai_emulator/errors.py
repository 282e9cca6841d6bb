"""The exceptions that any module may raise. Each message names the cause and the next step.

    EmulatorError
    ├── CommandError              a command fails: prints the message on stderr, exits with 1
    │   ├── StartError            the server cannot start
    │   │   ├── SettingInvalid
    │   │   ├── AddressUnavailable
    │   │   └── WeightsUnusable   missing, unreadable, not GGUF, or too large for the memory
    │   │       └── ModelPartMissing   a package of the extra `model` is not installed
    │   ├── PullFailed            weights cannot be downloaded
    │   └── ModelUnknown          the catalogue has no model with the name given to a command
    └── TransferInterrupted       a download failed and may be retried

`engine/errors.py` defines the errors that occur during a generation. `wire/errors.py` defines the
errors that clients receive.
"""

from __future__ import annotations

# The modules of the packages in the extra `model` of pyproject.toml.
_MODEL_PART = {
    *("gguf", "huggingface_hub", "llama_cpp", "llguidance", "numpy", "pip"),
    *("safetensors", "tomlkit", "tqdm"),
}


class EmulatorError(Exception):
    """The base class of all exceptions that this package raises on purpose."""


class CommandError(EmulatorError):
    """A command failed. The exception's message, one line for each error, is printed to stderr."""


class StartError(CommandError):
    """The server cannot start."""


class SettingInvalid(StartError):
    """A setting is invalid: a flag, an environment variable, or a file that one of them names."""


class AddressUnavailable(StartError):
    """The server cannot listen on the configured host and port."""


class WeightsUnusable(StartError):
    """The weights of a model cannot be loaded."""


class ModelPartMissing(WeightsUnusable):
    """A package that is needed to run models on this machine is not installed."""

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> ModelPartMissing:
        """Returns the error for an import that failed.

        Raises `error` itself if the missing module does not belong to the extra `model` of our
        package.
        """
        if (error.name or "").partition(".")[0] not in _MODEL_PART:
            raise error
        return cls(
            "models cannot run here, because a part of the emulator is not installed: run "
            "`pip install 'workers-ai-emulator[model]'`, or choose another backend, for example "
            "with WORKERS_AI_EMULATOR_BACKEND=scripted"
        )


class PullFailed(CommandError):
    """Weights cannot be downloaded. The bytes received so far stay on disk for the next try."""


class ModelUnknown(CommandError):
    """A command names a model that is not in the catalogue of models."""


class TransferInterrupted(EmulatorError):
    """A download of weights failed, at its start or in the middle, and may be retried."""
