"""A recipe either becomes a whole run's settings, or is refused with the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.config import (
    ELSEWHERE,
    RunConfig,
    check,
    find_recipe,
    json_schema,
    read_recipe,
    setting_names,
    shipped_recipes,
    to_plain,
)
from thinktune.errors import ConfigError

MINIMAL: dict[str, Any] = {"base_model": "m", "data": {"train": "rows.jsonl"}}


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(MINIMAL | settings, where="my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recipe_file(folder: Path, text: str | bytes) -> str:
    path = folder / "my.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("settings", "suggested"),
    [
        ({"lora": {"rnak": 3}}, "lora.rank"),
        ({"lora": {"target_module": ["q_proj"]}}, "lora.target_modules"),
        ({"lorra": {"rank": 3}}, "lora"),
        ({"optimiser": {"learning_rate": 3}}, "optimizer"),
        ({"learning_rate": 3}, "optimizer.learning_rate"),
        ({"training": {"max_length": 3}}, "template.max_length"),
        ({"training": {"learning_rate": 3}}, "optimizer.learning_rate"),
        ({"max_new_tokens": 3}, "generation.max_new_tokens or evaluation.max_new_tokens"),
        ({"rnak": 3}, "lora.rank"),
        ({"basemodel": "m"}, "base_model"),
    ],
)
def test_an_unknown_setting_names_the_nearest_known_one(
    settings: dict[str, Any], suggested: str
) -> None:
    assert f"did you mean {suggested}?" in refusal(**settings)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("gradient_accumulation_steps", "training.batch_size"),
        ("per_device_train_batch_size", "training.batch_size"),
        ("max_seq_length", "template.max_length"),
        ("cutoff_len", "template.max_length"),
        ("lora_r", "lora.rank"),
        ("lora_alpha", "lora.alpha"),
        ("lora_dropout", "lora.dropout"),
        ("adam_beta2", "optimizer.adam_betas"),
        ("model_name_or_path", "base_model"),
        ("bf16", "base_dtype=bfloat16"),
    ],
)
def test_names_of_other_trainers_are_told_what_they_are_called_here(name: str, here: str) -> None:
    told = refusal(**{name: 1})
    assert f"unknown setting {name}; " in told
    assert here in told
    assert here in refusal(training={name: 1})


def test_every_name_given_for_another_trainers_setting_exists() -> None:

    known = {*setting_names(), "base_dtype", "packing"}
    for explanation in ELSEWHERE.values():
        words = explanation.replace(",", " ").replace(";", " ").split()
        named = [word.partition("=")[0] for word in words if "." in word or "=" in word]
        assert set(named) <= known, explanation


def test_a_name_like_no_other_lists_what_is_known() -> None:
    assert "known: base_model, " in refusal(xyzzy=1)
    assert "known: rank, alpha, dropout, target_modules, use_rslora" in refusal(lora={"xyzzy": 1})


def test_an_unknown_name_is_told_before_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting base_modle; did you mean base_model\?"):
        check({"base_modle": "m", "data": {"train": "x"}}, where="r")


@pytest.mark.parametrize("missing", ["base_model", "data"])
def test_a_recipe_without_model_or_data_is_refused(missing: str) -> None:
    settings = {k: v for k, v in MINIMAL.items() if k != missing}
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        check(settings, where="r")


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("lora", "rank", 0),
        ("lora", "rank", 1.5),
        ("lora", "rank", True),
        ("optimizer", "learning_rate", False),
        ("packing", "max_tokens", True),
        ("lora", "dropout", 1.0),
        ("lora", "dropout", -0.1),
        ("lora", "alpha", float("nan")),
        ("lora", "target_modules", "q_proj"),
        ("optimizer", "learning_rate", 0),
        ("optimizer", "learning_rate", float("inf")),
        ("optimizer", "adam_betas", 0.9),
        ("optimizer", "lr_scheduler_type", "wavy"),
        ("optimizer", "warmup_steps", "five"),
        ("training", "num_train_epochs", float("inf")),
        ("training", "batch_size", 0),
        ("training", "max_steps", 0),
        ("template", "family", "no-such"),
        ("template", "max_length", "long"),
        ("evaluation", "top_p", 0),
        ("generation", "top_p", 1.1),
        ("generation", "temperature", -1),
        ("reasoning", "loss_weight", -1),
    ],
)
def test_a_value_out_of_range_is_named_with_its_setting(group: str, name: str, value: Any) -> None:
    told = refusal(**{group: {name: value}})
    assert told.startswith(f"my.yaml: {group}.{name}={value!r}: ")


def test_a_running_mean_that_keeps_everything_is_refused_by_its_place_in_the_pair() -> None:
    assert "optimizer.adam_betas.1=1.0: " in refusal(optimizer={"adam_betas": [0.9, 1.0]})
    assert "optimizer.adam_betas.0=-0.5: " in refusal(optimizer={"adam_betas": [-0.5, 0.9]})


@pytest.mark.parametrize("seed", [-1, 2**32, "three", 1.5])
def test_a_seed_that_no_generator_takes_is_refused(seed: Any) -> None:
    assert f"seed={seed!r}: " in refusal(seed=seed)


def test_every_value_of_a_choice_is_told() -> None:
    told = refusal(template={"family": "no-such"})
    assert "'chatml'" in told
    assert "'auto'" in told
    assert "literal" not in told


def test_settings_that_cannot_do_anything_together_are_refused() -> None:
    assert "both 0" in refusal(reasoning={"loss_weight": 0}, answer={"loss_weight": 0})
    assert "top_p has no effect" in refusal(evaluation={"top_p": 0.5})
    assert "no layer would get an adapter" in refusal(lora={"target_modules": []})


def test_one_name_where_a_list_is_meant_shows_the_list() -> None:
    assert "report_to='wandb': write a list: [wandb]" in refusal(report_to="wandb")


def test_a_group_given_one_value_is_refused_and_a_group_left_empty_is_not() -> None:
    assert "lora=3: a group of settings; write lora.SETTING=VALUE" in refusal(lora=3)
    assert check(MINIMAL | {"lora": None}, where="r") == check(MINIMAL, where="r")


def test_overrides_reach_into_groups_in_order_and_read_values_as_yaml(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, "base_model: m\ndata: {train: x}\nlora:\n  # rank: 8\n")
    config = read_recipe(
        recipe,
        [
            "lora.rank=8",
            "lora.rank=32",
            "optimizer.learning_rate=1e-3",
            "lora.target_modules=[q_proj, v_proj]",
            "data.heldout_split=null",
            "output_dir=a=b",
            "data.columns.question=Frage",
        ],
    )
    assert config.lora.rank == 32
    assert config.optimizer.learning_rate == 1e-3
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert config.data.heldout_split is None
    assert config.output_dir == "a=b"
    assert config.data.columns == {"question": "Frage"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("lora.rank", "write setting=value"),
        ("=3", "write setting=value"),
        ("", "write setting=value"),
        ("lora.rank=[1", "not valid YAML"),
        ("seed.of=3", "seed is a single setting, it has no of"),
        ("lora.rank=", "lora.rank=None"),
        ("lora..rank=3", "unknown setting lora."),
        ("--resume=1", "unknown setting --resume"),
    ],
)
def test_an_override_that_is_none_is_refused(tmp_path: Path, override: str, told: str) -> None:
    recipe = recipe_file(tmp_path, "base_model: m\nseed: 1\ndata: {train: x}\n")
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe, [override])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: [1", "my.yaml line 1: not valid YAML"),
        ("base_model: m\n\tseed: 1\n", "my.yaml line 2: not valid YAML"),
        ("- a\n- b\n", "a recipe is a list of `setting: value`, not ['a', 'b']"),
        ("", "a recipe is a list of `setting: value`, not None"),
        ("just words", "not 'just words'"),
        (b"seed: \xff\n", "not UTF-8 (byte 6)"),
        (b"seed: 1\x00\n", "not valid YAML"),
        ("lora: {rank: 1}\nseed: 1\nlora: {alpha: 2}\n", "line 3: not valid YAML (lora stands"),
        ("lora:\n  rank: 1\n  rank: 2\n", "line 3: not valid YAML (rank stands twice"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe_file(tmp_path, content))
    assert told in str(caught.value)


def test_a_recipe_that_is_nowhere_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="neither a file nor a shipped recipe; shipped recipes: "):
        find_recipe("no-such-thing")
    with pytest.raises(ConfigError, match="did you mean clinic-en-smollm2"):
        find_recipe("clinic-en-smolm2")


def test_every_shipped_recipe_loads_and_is_found_by_name() -> None:
    assert "clinic-en-smollm2" in shipped_recipes()
    for name, path in shipped_recipes().items():
        assert read_recipe(name) == read_recipe(str(path))


@settings(deadline=None, max_examples=40)  # a busy machine is no failure
@given(
    rank=st.integers(1, 512),
    rate=st.floats(1e-9, 10),
    seed=st.integers(0, 2**32 - 1),
    columns=st.dictionaries(st.sampled_from(["question", "answer"]), st.text(max_size=5)),
    labels=st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=3)), max_size=3),
    report=st.sampled_from([[], ["wandb"]]),
)
def test_settings_written_back_read_as_the_same(
    rank: int, rate: float, seed: int, columns: dict, labels: dict, report: list[str]
) -> None:
    config = check(
        {
            "base_model": "m",
            "seed": seed,
            "data": {"train": "x", "columns": columns},
            "lora": {"rank": rank},
            "optimizer": {"learning_rate": rate},
            "evaluation": {"labels": labels},
            "report_to": report,
        },
        where="r",
    )
    plain = to_plain(config)
    assert check(json.loads(json.dumps(plain)), where="r") == config
    assert check(yaml.safe_load(yaml.safe_dump(plain)), where="r") == config


def test_settings_cannot_change_after_they_are_checked() -> None:
    config = check(MINIMAL, where="r")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_the_schema_describes_every_setting() -> None:
    schema = json.loads(json_schema())
    groups = {"": schema} | {name: of for name, of in schema["$defs"].items() if "properties" in of}
    described = [p for of in groups.values() for p in of["properties"].items()]
    leaves = [(name, of) for name, of in described if name not in RunConfig.model_fields]
    leaves += [(n, of) for n, of in schema["properties"].items() if n in setting_names()]
    assert len(leaves) >= len(set(setting_names())) - 2  # a group used twice is defined once
    assert [name for name, of in leaves if not of.get("description")] == []
    assert all(of.get("additionalProperties") is False for of in groups.values())
