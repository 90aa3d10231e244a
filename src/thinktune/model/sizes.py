"""Which sizes a checkpoint's config.json may name, before anything is built of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinktune.errors import CheckpointError

_SIZES = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 18,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "max_position_embeddings": 1 << 40,
}
"""Sizes of a decoder, and ten times and more what any has."""


def require_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Refuse sizes that no model has: building a layer costs time and memory, weights or not.

    Args:
        config: the parsed ``config.json``.
        path: of the file, for messages.

    Raises:
        CheckpointError: a size that is no whole number or far from any model's, or a number of
            the rotary embedding that is none.
    """
    for name, most in _SIZES.items():
        size = config.get(name)
        if size is None:
            continue
        is_count = isinstance(size, int) and not isinstance(size, bool)
        if not is_count or not 1 <= size <= most:
            raise CheckpointError(
                f"{path}: {name} is {size!r:.40}; a whole number from 1 to {most:,} is needed"
            )
    for name in ("rms_norm_eps", "rope_theta"):
        _require_positive(config, name, str(path))
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name)
        if rope is not None and not isinstance(rope, dict):
            raise CheckpointError(f"{path}: {name} is {rope!r:.40}, not a group of numbers")
        for key in ("factor", "original_max_position_embeddings", "rope_theta"):
            _require_positive(rope or {}, key, f"{path}: {name}")
        for key, value in (rope or {}).items():
            is_text = key in ("rope_type", "type") and isinstance(value, str)
            is_number = isinstance(value, bool | int | float) and math.isfinite(value)
            if not is_text and not is_number and value is not None:
                raise CheckpointError(f"{path}: {name}.{key} is {value!r:.40}")


def _require_positive(values: Mapping[str, Any], name: str, where: str) -> None:
    value = values.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < math.inf):
        raise CheckpointError(f"{where}: {name} is {value!r:.40}, not a number above 0")
