"""Errors a user can act on: each message names the file, row or setting and the way out."""


class ThinktuneError(Exception):
    """Anything the user can put right; the command line prints it as one line and exits with 2."""


class ConfigError(ThinktuneError):
    """A setting is unknown, out of range, or asks for what this build cannot do."""


class DataError(ThinktuneError):
    """A data file cannot be read, or its rows cannot be used."""


class TemplateError(ThinktuneError):
    """A tokenizer cannot carry question, reasoning and answer without losing something."""


class CheckpointError(ThinktuneError):
    """A base model's files are missing, unsupported or damaged."""


class AdapterError(ThinktuneError):
    """An adapter does not belong to this base model, or is damaged or untrained."""


class TrainingError(ThinktuneError):
    """A step cannot be taken without spoiling the adapter (non-finite loss or gradient)."""


class RunError(ThinktuneError):
    """A run folder is in the way, incomplete or of another recipe."""
