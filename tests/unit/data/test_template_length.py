"""Rows over the limit: shortened, dropped or refused, and always named."""

from dataclasses import replace

import pytest

from tests.tokenizers import r1_qwen
from thinktune.data.example import Example
from thinktune.data.template import Overlong, Parsed, Template, TemplateConfig, fit, render_all
from thinktune.errors import DataError

FEVER = Example(
    "病人發燒，怎麼辦？", "發燒三天。可能是流感。", "多休息。", where="train.jsonl row 7"
)


def template_of(**settings: object) -> Template:
    return Template.from_tokenizer(r1_qwen(), TemplateConfig.model_validate(settings))


LONG = replace(
    FEVER, reasoning="First we look. Then a. Then b.\nThen c。然後丁。 So it is flu.", where="row 3"
)


def test_shortening_takes_sentences_from_the_middle_and_nothing_else():
    template = template_of()
    whole = template.render(LONG)
    fitted = fit(template, LONG, whole, len(whole.tokens) - 1)
    assert fitted is not None
    assert len(fitted.tokens) <= len(whole.tokens) - 1
    parsed = template.parse_ids(fitted.tokens[fitted.prompt_length :])
    assert parsed == Parsed(
        "First we look. Then a. Then c。然後丁。 So it is flu.", LONG.answer, True
    )
    assert fitted.removed_tokens == len(whole.tokens) - len(fitted.tokens) > 0
    kept = (fitted.tokens[: fitted.prompt_length], fitted.tokens[-1], fitted.where)
    assert kept == (whole.tokens[: whole.prompt_length], template.eos_token_id, "row 3")


def test_a_row_at_the_limit_is_not_touched():
    template = template_of()
    whole = template.render(LONG)
    assert fit(template, LONG, whole, len(whole.tokens)) is whole


def test_every_row_the_limit_touches_is_named():
    template = template_of(max_length=10_000)
    num_long = len(template.render(LONG).tokens)
    single = replace(FEVER, reasoning="one sentence " * 60, where="")
    result = render_all(template, [FEVER, LONG, single], max_length=num_long - 1)
    assert [row.where for row in result.rows] == ["train.jsonl row 7", "row 3"]
    assert result.shortened == [("row 3", result.rows[1].removed_tokens)]
    assert [where for where, _ in result.dropped] == ["example 3"]
    assert result.dropped[0][1].endswith(f"tokens, over {num_long - 1}")


def test_the_smaller_of_both_limits_holds():
    template = template_of(max_length=5, overlong=Overlong.DROP)
    assert render_all(template, [FEVER], max_length=10_000).rows == []
    assert len(render_all(template_of(), [FEVER, LONG]).rows) == 2


def test_drop_does_not_shorten():
    template = template_of(overlong=Overlong.DROP)
    limit = len(template.render(LONG).tokens) - 1
    result = render_all(template, [LONG], limit)
    assert (result.rows, result.shortened, len(result.dropped)) == ([], [], 1)


def test_fail_names_the_rows_and_the_way_out():
    template = template_of(overlong=Overlong.FAIL)
    with pytest.raises(
        DataError, match=r"2 rows are too long \(train.jsonl row 7: .*row 3: .*overlong="
    ):
        render_all(template, [FEVER, LONG], 10)
    assert len(render_all(template, [FEVER, LONG], 10_000).rows) == 2


def test_no_sentence_goes_that_fits():
    template = template_of()
    whole = template.render(LONG)
    fitted = fit(template, LONG, whole, len(whole.tokens) - 1)
    assert fitted is not None
    assert fit(template, LONG, whole, len(fitted.tokens)) == fitted
    shorter = fit(template, LONG, whole, len(fitted.tokens) - 1)
    assert shorter is not None
    assert len(shorter.tokens) < len(fitted.tokens)
