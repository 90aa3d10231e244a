"""Recipes and overrides that say what cannot be."""

from tests.bad_inputs.preparing import Cases, recipe, settings, words

HEAD = "base_model: x\ndata: {train: y}\n"
LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

CASES: Cases = {
    "unknown setting": (settings("lora.rnak=3"), ["lora.rnak", "did you mean lora.rank?"]),
    "another trainer's setting": (settings("lora_r=3"), ["lora_r", "use lora.rank"]),
    "value out of range": (settings("lora.dropout=1.5"), ["lora.dropout=1.5", "less than 1"]),
    "targets that match nothing": (
        settings("lora.target_modules=[q_prj]"), ["'q_prj' matches no layer", "q_proj"],
    ),
    "no targets": (settings("lora.target_modules=[]"), ["lora.target_modules=[]"]),
    "targets that are no list": (settings("lora.target_modules=q_proj"), ["write a list"]),
    "nothing to train on": (
        settings("template.max_length=3", "template.overlong=drop"),
        ["no training rows are left"],
    ),
    "rows too long, and that is to fail": (
        settings("template.max_length=3", "template.overlong=fail"), ["too long", "max_length"],
    ),
    "nothing carries loss": (
        settings("reasoning.loss_weight=0", "answer.loss_weight=0"), ["both 0"],
    ),
    "a type there is not": (settings("base_dtype=int4"), ["base_dtype='int4'", "nf4"]),
    "negative seed": (settings("--seed", "-1"), ["seed=-1"]),
    "a seed that is a word": (settings("--seed", "abc"), ["seed='abc'"]),
    "a seed that is true": (settings("seed=true"), ["seed=True", "not allowed"]),
    "a seed that is a list": (settings("seed=[1]"), ["seed=[1]"]),
    "a seed beyond every generator": (settings("--seed", str(2**40)), ["4294967296"]),
    "a seed of many digits": (settings(f"seed={'1' * 5000}"), ["not valid YAML; quote it"]),
    "a learning rate that is no number": (settings("optimizer.learning_rate=.nan"), ["finite"]),
    "an override that is none": (settings("rank"), ["'rank' is no override"]),
    "an override that is no YAML": (settings("seed=[1"), ["'seed=[1'", "quote it"]),
    "an override that is no date": (settings("output_dir=2024-99-99"), ["quote it"]),
    "an override nested for ever": (settings("seed=" + "[" * 5000), ["not valid YAML"]),
    "an override inside a value": (settings("seed.x=3"), ["seed.x", "a single setting"]),
    "a group that is a value": (settings("lora=3"), ["lora=3", "write lora.SETTING=VALUE"]),
    "a tracker that is unknown": (settings("report_to=[nobody]"), ["report_to", "'wandb'"]),
    "a pattern without fields": (settings("data.patterns.answer=x"), ["no field in braces"]),
    "a pattern with nothing between": (
        settings("data.patterns.answer='{reasoning}{answer}'"), ["no text that parts them"],
    ),
    "a field nobody knows": (settings("data.columns.mood=x"), ["unknown field mood"]),
    "recipe that is no YAML": (recipe("a: [1"), ["small.yaml line 1", "YAML"]),
    "recipe that is not UTF-8": (recipe(b"a: \xff"), ["small.yaml", "UTF-8"]),
    "recipe that is a list": (recipe("- a\n"), ["small.yaml", "['a']"]),
    "recipe that is empty": (recipe(""), ["small.yaml", "setting: value"]),
    "recipe with a NUL": (recipe(HEAD + "seed: '\0'\n"), ["small.yaml", "not valid YAML"]),
    "recipe without a model": (recipe("data: {train: y}\n"), ["base_model is missing"]),
    "recipe with a setting twice": (recipe(HEAD + "seed: 1\nseed: 2\n"), ["line 4", "twice"]),
    "recipe of aliases": (recipe(LAUGHS), ["small.yaml line 2", "write the value itself"]),
    "recipe that holds itself": (recipe("data: &a [*a]\n"), ["line 1", "an alias"]),
    "recipe nested for ever": (recipe("a: " + "[" * 5000), ["line 1", "32 deep"]),
    "recipe with a date that is none": (
        recipe(HEAD + "seed: 2024-99-99\n"), ["small.yaml line 3", "'2024-99-99'"],
    ),
    "recipe with bits that are none": (recipe(HEAD + "seed: 0b_\n"), ["line 3", "quote it"]),
    "recipe with a tag that does not fit": (
        recipe(HEAD + "seed: !!bool maybe\n"), ["line 3", "'maybe' is no bool"],
    ),
    "recipe that would run code": (
        recipe(HEAD + "seed: !!python/object/apply:os.system [ls]\n"), ["line 3", "not valid YAML"],
    ),
    "recipe with a list for a key": (recipe("? [a]\n: b\n"), ["line 1", "unhashable"]),
    "recipe with a number for a key": (recipe("3: 4\n" + HEAD), ["line 1", "3 is no text"]),
    "recipe with a bracket in a name": (recipe(HEAD + "'a[b': 3\n"), ["unknown setting a[b"]),
    "recipe with a set that is none": (recipe(HEAD + "seed: !!set abc\n"), ["line 3"]),
    "no such recipe": (words("train", "smal.yaml"), ["'smal.yaml'", "shipped"]),
    "recipe of the home of nobody": (words("train", "~nobody-here/a.yaml"), ["no such user"]),
    "estimate of no such recipe": (words("estimate", "smal.yaml"), ["'smal.yaml'"]),
    "estimate with a wrong setting": (
        words("estimate", "small.yaml", "lora.rank=0"), ["lora.rank=0", "greater than 0"],
    ),
    "a folder that cannot be made": (settings(output_dir="rows.jsonl/run"), ["rows.jsonl/run"]),
}  # fmt: skip
