"""The page that documents every setting, made of the settings themselves (`make docs`)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thinktune.config import ELSEWHERE, RunConfig, json_schema, setting_names

_HEAD = """# Settings

Made by `make docs` from the settings themselves; a test fails when it is stale. A recipe holds
what differs from the defaults, and any setting can be changed on the command line:
`thinktune train my.yaml lora.rank=32`. A name of another trainer is answered with ours. Editors
that know YAML schemas complete and check a recipe that begins with this line:

    # yaml-language-server: $schema=FOLDER/recipe.schema.json

That file lies beside this page.
"""
_FOOT = """
## Without a setting of their own

"""
_COLUMNS = ("setting", "value", "default", "what it does", "called elsewhere")
_KINDS = {"integer": "whole number", "boolean": "true or false", "string": "text"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def write_docs(folder: Path) -> None:
    """Write the page, and beside it the schema that editors read."""
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")
    (folder / "recipe.schema.json").write_text(json_schema(), encoding="utf-8")


def settings_page() -> str:
    """The page, as Markdown: a table for each group, a row for each setting."""
    schema = RunConfig.model_json_schema()
    parts, group = [_HEAD], None
    names = sorted(setting_names(), key=lambda name: "." in name)  # the run's own first
    for name in names:
        above, _, own = name.rpartition(".")
        of = _resolved(schema["properties"][above], schema) if above else schema
        if above != group:
            group = above
            about = of["description"] if above else "Of the run as a whole."
            parts.append(f"\n## {above or 'The run'}\n\n{_plain(about)}\n\n")
            parts.append(_row(_COLUMNS) + _row(["---"] * len(_COLUMNS)))
        parts.append(
            _row(_cells(name, of["properties"][own], own in of.get("required", ()), schema))
        )
    parts.append(_FOOT)
    known = set(names)
    parts += [f"- `{o}`: {told}.\n" for o, told in ELSEWHERE.items() if not known & _words(told)]
    return "".join(parts)


def _cells(
    name: str, of: Mapping[str, Any], is_required: bool, schema: Mapping[str, Any]
) -> Iterator[str]:
    yield f"`{name}`"
    yield _value(of, schema)
    default = json.dumps(of.get("default", {}), ensure_ascii=False)
    yield "required" if is_required else f"`{default}`"
    yield _plain(of["description"])
    yield ", ".join(f"`{other}`" for other, told in ELSEWHERE.items() if name in _words(told))


def _words(text: str) -> set[str]:
    words = text.replace(",", " ").replace(";", " ").replace("=", " ").split()
    return {*words}


def _value(of: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What may be written, with its bounds, in words."""
    of = _resolved(of, schema)
    if choices := of.get("anyOf"):
        return " or ".join(dict.fromkeys(_value(choice, schema) for choice in choices))
    if "enum" in of or "const" in of:
        return ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    bounds = ", ".join(told.format(f"{of[key]:.12g}") for key, told in _BOUNDS.items() if key in of)
    kind = _KINDS.get(of["type"], str(of["type"]))
    if of["type"] == "array":
        inner = [_value(item, schema) for item in of.get("prefixItems", [of.get("items")])]
        kind = f"list: {inner[0]}" if "items" in of else f"list of {len(inner)}: {inner[0]}"
    if of["type"] == "object":
        inner = of.get("additionalProperties")
        kind = f"names to {_value(inner, schema)}" if isinstance(inner, dict) else "names to values"
    return f"{kind}, {bounds}" if bounds else kind


def _resolved(of: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in of:
        return {
            **schema["$defs"][of["$ref"].rpartition("/")[2]],
            **of,
        }
    return of


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |\n"
