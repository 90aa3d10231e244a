import json
import timeit
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.data import scripts
from thinktune.data.scripts import Script, to_script
from thinktune.evaluation.signals import (
    expected_script,
    mixes_scripts,
    repetition,
    script_consistency,
)

DATA = Path(__file__).parents[3] / "src/thinktune/assets/data"
PROSE = (
    "Findings: mild sore throat, runny nose, sneezing, three days, no fever, sick contacts. It "
    "moved from the throat to the nose within days. Together this suggests common cold. Sinusitis "
    "would give facial pressure after a longer time. "
)


def texts_of(name: str) -> list[dict[str, str]]:
    lines = (DATA / name / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def chinese() -> list[dict[str, str]]:
    return texts_of("clinic-zh-tw")


@pytest.mark.parametrize(
    "loop",
    [
        "Wait, let me check that again. ",
        "the ",
        "3",
        "!",
        "|---",
        "我覺得應該再想一想，",
        "はい、もう一度考えます。",
        "нет, ещё раз. ",
    ],
)
def test_a_loop_of_words_digits_or_signs_repeats_nearly_all_of_the_text(loop: str) -> None:
    once_more = repetition(loop * (1500 // len(loop)))
    assert once_more is not None
    assert 0.95 < once_more < 1


def test_a_loop_at_the_end_counts_for_the_part_it_takes() -> None:
    ending = PROSE + "So it is a cold, I am sure. " * 30
    share = len("So it is a cold, I am sure. ") * 29 / len(ending)
    assert repetition(ending) == pytest.approx(share, abs=0.04)


def test_a_text_said_twice_repeats_half_of_it_however_it_is_spaced() -> None:
    assert repetition(PROSE) == 0
    assert repetition(PROSE * 2) == pytest.approx(0.5, abs=0.07)
    assert repetition(PROSE + PROSE.replace(" ", "\n\n")) == repetition(PROSE * 2)


@pytest.mark.parametrize("name", ["clinic-en", "clinic-zh-tw"])
def test_no_text_that_a_person_wrote_for_the_shipped_data_repeats_itself(name: str) -> None:
    rows = texts_of(name)
    shares = [repetition(row[field]) for row in rows for field in ("reasoning", "answer")]
    assert set(shares) == {0.0}


@pytest.mark.parametrize("text", ["", "42", "Diagnosis: common cold.", "3" * 70, "普通感冒" * 11])
def test_a_text_too_short_to_loop_has_no_repetition(text: str) -> None:
    assert repetition(text) is None


def test_counting_up_is_no_repetition() -> None:
    assert repetition(" ".join(map(str, range(400)))) == 0


def test_a_broken_half_of_a_character_is_read_all_the_same() -> None:
    assert repetition("\ud83d no way " * 40) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("question", "reference", "script"),
    [
        ("How many eggs?", "18", Script.LATIN),
        ("HOW MANY EGGS?", "B", Script.LATIN),
        ("How many eggs?", "十八顆雞蛋", Script.TRADITIONAL),
        ("發燒三天", "普通感冒", Script.TRADITIONAL),
        ("发烧三天", "普通感冒", Script.SIMPLIFIED),
        ("咳嗽三天", "普通感冒", Script.HAN),
        ("發燒三天", "这是普通感冒，请多休息", Script.SIMPLIFIED),
        ("要做什麼檢查？", "MRI", Script.TRADITIONAL),
        ("需要加多少？", "5 mg", Script.HAN),
        ("發燒", "這個問題請看医生", Script.TRADITIONAL),
        ("何の病気ですか。熱があります", "肺炎", Script.JAPANESE),
        (
            "何の病気ですか。熱があります",
            "麻疹です。学校を休んで、家で寝てください",
            Script.JAPANESE,
        ),
        ("2 + 2 = ?", "4", Script.NONE),
        ("열이 있어요", "감기", Script.KOREAN),
    ],
)
def test_an_answer_is_expected_in_the_script_of_the_reference_or_else_of_the_question(
    question: str, reference: str, script: Script
) -> None:
    assert expected_script(question, reference) is script


@pytest.mark.parametrize(
    ("text", "expected", "share"),
    [
        ("病人發燒，體溫 38.5 度", Script.TRADITIONAL, 1.0),
        ("先照 MRI、CT，再驗 HbA1c、SpO2、COVID-19", Script.TRADITIONAL, 1.0),
        ("每次 500 mg，每日 5 ml/kg 或 10 μg，血壓 120 mmHg", Script.TRADITIONAL, 1.0),
        (r"設 x 為 \frac{1}{2}，則 A 型為 \boxed{α}", Script.TRADITIONAL, 1.0),
        ("病人发烧头痛", Script.TRADITIONAL, 0.0),
        ("病人发烧头痛", Script.SIMPLIFIED, 1.0),
        ("病人發燒頭痛", Script.SIMPLIFIED, 0.0),
        ("病人咳嗽", Script.TRADITIONAL, 1.0),
        ("發燒與头痛", Script.TRADITIONAL, 3 / 4),  # 發 燒 與 against 头
        ("病人发烧頭痛", Script.HAN, 1.0),
        ("多休息 and drink", Script.HAN, 9 / 17),
        ("The patient has 發燒", Script.LATIN, 13 / 19),
        ("The word is влага", Script.LATIN, 9 / 14),
        ("α-blockers lower β, so π > 3", Script.LATIN, 1.0),
        ("“No fever” – the patient’s fine", Script.LATIN, 1.0),
        ("麻疹です。家で寝てください", Script.JAPANESE, 1.0),
        ("肺炎", Script.JAPANESE, 1.0),
        ("这是肺炎，请休息", Script.JAPANESE, 0.0),
        ("Fever", Script.TRADITIONAL, 0.0),
    ],
)
def test_the_share_of_letters_in_the_expected_script(
    text: str, expected: Script, share: float
) -> None:
    assert script_consistency(text, expected) == pytest.approx(share)


def test_text_without_letters_or_a_script_to_expect_has_no_consistency() -> None:
    for text, expected in [("", Script.LATIN), ("38.5", Script.TRADITIONAL), ("MRI", Script.HAN)]:
        assert script_consistency(text, expected) is None
    for expected in (Script.NONE, Script.OTHER):
        assert script_consistency("fever", expected) is None


def test_the_shipped_chinese_is_all_in_its_script_until_it_is_converted(
    chinese: list[dict[str, str]],
) -> None:
    for row in chinese[::5]:
        answer = row["answer"]
        assert expected_script(row["question"], answer) is Script.TRADITIONAL
        assert script_consistency(answer, Script.TRADITIONAL) == 1
        simplified = to_script(answer, "simplified")
        assert script_consistency(simplified, Script.TRADITIONAL) == 0
        assert script_consistency(simplified, Script.SIMPLIFIED) == 1
        half = len(answer) // 2
        mixed = script_consistency(simplified[:half] + answer[half:], Script.TRADITIONAL)
        assert mixed is not None
        assert 0.1 < mixed < 0.9


@pytest.mark.parametrize(
    ("text", "mixes"),
    [
        ("The patient has a fever.", False),
        ("The word 發燒 means fever.", True),
        ("Let me think. Это просто.", True),
        ("The angle α is π/2, x ∈ ℝ.", False),
        ("病人發燒，先做 PCR、MRI 與 CT", False),
        ("他說 the patient has no fever today 喔，所以在家休息就好", True),
        ("他說 no fever today 喔，所以在家休息就好", False),
        ("病人發燒头痛", True),
        ("病人发烧头痛", False),
        ("熱がある患者です", False),
        ("38.5", None),
    ],
)
def test_a_text_mixes_scripts_if_it_changes_on_the_way(text: str, mixes: bool | None) -> None:
    assert mixes_scripts(text) is mixes


def test_the_shipped_data_mixes_no_scripts(chinese: list[dict[str, str]]) -> None:
    for rows in (chinese, texts_of("clinic-en")):
        fields = ("question", "reasoning", "answer")
        assert not any(mixes_scripts(row[field]) for row in rows for field in fields)


@given(
    st.text() | st.text("aB1 .,發发国の가ж\\αµ\n\ud800", max_size=120),
    st.sampled_from(list(Script)),
)
@settings(deadline=None)
def test_any_text_has_shares_between_0_and_1_or_none(text: str, expected: Script) -> None:
    for again in (repetition(text), repetition(text * 50)):
        assert again is None or 0 <= again < 1
    share = script_consistency(text, expected)
    assert share is None or 0 <= share <= 1
    for variety in (Script.TRADITIONAL, Script.SIMPLIFIED):
        loose, strict = (script_consistency(text, script) for script in (Script.HAN, variety))
        assert loose is strict is None or loose >= strict  # pyright: ignore
    assert mixes_scripts(text) in (True, False, None)
    assert expected_script(text, "42") is expected_script(text, "")


@given(st.text("abcdefg 發燒咳", min_size=100), st.integers(2, 6))
@settings(deadline=None)
def test_the_more_often_a_text_is_said_the_more_of_it_is_repetition(text: str, times: int) -> None:
    less, more = (repetition((text + "。") * number) or 0 for number in (times, times + 1))
    assert 1 - 1 / times - 0.2 <= less < more


def test_each_signal_of_600_latin_characters_takes_less_than_sorting_them_six_times() -> None:
    # Measured 66, 24, 12 and 65 microseconds where the sort takes 20 to 35; the aim is under 100.
    text = (PROSE.replace("this", "it’s") * 3)[:600]

    def seconds(call: object) -> float:
        return min(timeit.repeat(call, number=20, repeat=15))  # pyright: ignore

    def afresh(call: object) -> object:
        scripts._letters.cache_clear()
        return call(text)  # pyright: ignore

    sort = seconds(lambda: sorted(text))
    for call in (
        repetition,
        lambda text: script_consistency(text, Script.LATIN),
        mixes_scripts,
        lambda text: expected_script("", text),
    ):
        afresh(call)
        assert seconds(lambda call=call: afresh(call)) < 6 * sort
