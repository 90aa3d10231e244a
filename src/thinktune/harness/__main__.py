"""The harness's own command line, with the model ``thinktune`` in it."""

import sys

from thinktune.errors import ThinktuneError
from thinktune.harness.adapter import harness_class


def main() -> None:
    """Run ``lm_eval`` as it is, once our models are known to it."""
    try:
        ours = harness_class()
        import lm_eval.models  # noqa: F401, PLC0415 # pyright: ignore - or its own are not found
        from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 # pyright: ignore - optional
        from lm_eval.api.registry import model_registry  # noqa: PLC0415 # pyright: ignore

        model_registry.register("thinktune")(ours)
        cli_evaluate()
    except ThinktuneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
