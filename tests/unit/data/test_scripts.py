import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.scripts import (
    CONVERSIONS,
    Script,
    differences,
    foreign_passages,
    script_of,
    scripts_in,
    simplified_only,
    tell_tales,
    to_script,
    traditional_only,
)
from thinktune.errors import ConfigError

CLINIC = Path(__file__).parents[3] / "src/thinktune/assets/data/clinic-zh-tw"
TAIWAN = (
    "后里面台干只余系才千云几了么松谷采丑准克卷吃周困夸家尸岳志愿折舍斗曲朱杯板杆栗欲注游漓灶症秋筑"
    "致范胜胡蔑蒙表辟郁酸須床群峰疱霉雇秘占布冬出回向姜弦征念污沖淡濕煙痴皂祕粽著裡託跡週鬱鹹"
)
HONG_KONG = "裏衞綫説溫温户悦税脱葱卧台羣峯牀鷄銹污着"
SIMPLIFIED = "头发烧医师药说话这个们时间过气体标炉签脏痒学国来会对开关门车马鸟鱼龙龟"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = [
        line
        for name in ("train", "test")
        for line in (CLINIC / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    fields = ("question", "reasoning", "answer")
    return [row[field] for row in map(json.loads, lines) for field in fields]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("", Script.NONE),
        ("38.5 / 2 = ?", Script.NONE),
        ("３８．５", Script.NONE),
        ("😀 120\u202f–\u202f80", Script.NONE),
        ("Fever", Script.LATIN),
        ("Où est l'hôpital ?", Script.LATIN),
        ("Bệnh nhân bị sốt", Script.LATIN),
        ("病人發燒", Script.TRADITIONAL),
        ("病人发烧", Script.SIMPLIFIED),
        ("病人咳嗽", Script.HAN),
        ("病人發燒头痛", Script.MIXED_HAN),
        ("經濟拮据", Script.TRADITIONAL),
        ("拮据", Script.HAN),
        ("经济拮据", Script.SIMPLIFIED),
        ("熱がある患者です", Script.JAPANESE),
        ("学校で国語を勉強する", Script.JAPANESE),
        ("台北の味道真好，我很喜歡這家店的牛肉麵", Script.TRADITIONAL),
        ("환자는 열이 있다", Script.KOREAN),
        ("У больного жар", Script.CYRILLIC),
        ("Ο ασθενής έχει πυρετό", Script.GREEK),
        ("المريض يعاني من الحمى", Script.ARABIC),
        ("לחולה יש חום", Script.HEBREW),
        ("ผู้ป่วยมีไข้", Script.THAI),
        ("मरीज को बुखार है", Script.DEVANAGARI),
        ("ქართული", Script.OTHER),
        ("建議做 MRI 與 PCR，體溫 38.5 度", Script.TRADITIONAL),
        ("The word 發燒 means fever", Script.LATIN),
        ("\U00020bb7野家𠮷", Script.HAN),
        ("5 µg", Script.LATIN),
    ],
)
def test_a_text_has_the_script_that_most_of_it_is_in(text: str, script: Script) -> None:
    assert script_of(text) is script


def test_letters_are_counted_by_script_and_han_as_one_variety() -> None:
    assert scripts_in("發燒 38.5 度, PCR, Привет") == {
        Script.TRADITIONAL: 3,
        Script.LATIN: 3,
        Script.CYRILLIC: 6,
    }
    assert scripts_in("MRI 38.5") == {Script.LATIN: 3}
    assert scripts_in("12,5") == {}


def test_counting_again_gives_a_counter_of_its_own() -> None:
    scripts_in("發燒 abc")[Script.LATIN] += 100
    assert scripts_in("發燒 abc")[Script.LATIN] == 3


def test_characters_of_taiwan_and_hong_kong_are_not_simplified() -> None:
    assert simplified_only(TAIWAN + HONG_KONG) == []


def test_characters_of_simplified_text_are_not_traditional() -> None:
    assert traditional_only(SIMPLIFIED + TAIWAN[:20] + "乾坤著作徵羽") == []


def test_characters_that_tell_are_found_once_and_in_order() -> None:
    assert simplified_only("头痛、发烧、头晕") == ["头", "发", "烧", "晕"]
    assert traditional_only("頭痛、發燒、頭暈、之後") == ["頭", "發", "燒", "暈", "後"]


def test_every_simplified_character_of_a_plain_text_is_named() -> None:
    assert simplified_only(SIMPLIFIED) == list(SIMPLIFIED)


def test_no_character_tells_both_and_none_that_tells_is_in_the_other_standard() -> None:
    simplified, traditional = tell_tales()
    assert len(simplified) > 2000
    assert len(traditional) > 2000
    assert not simplified & traditional
    assert all(to_script(each, "traditional") not in simplified for each in sorted(simplified))


def test_native_text_of_taiwan_is_traditional_and_its_conversion_simplified(
    texts: list[str],
) -> None:
    assert Counter(map(script_of, texts)) == {Script.TRADITIONAL: len(texts)}
    assert [found for text in texts for found in simplified_only(text)] == []
    assert [text for text in texts if to_script(text, "traditional") != text] == []
    back = [to_script(text, "simplified") for text in texts]
    assert Counter(map(script_of, back)) == {Script.SIMPLIFIED: len(texts)}
    again = [to_script(text, "traditional") for text in back]
    assert [found for text in again for found in simplified_only(text)] == []


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("MRI 38.5 度 PCR, CRP, WBC, Hb, Plt, Na, K 正常", []),
        ("他吃 Amoxicillin, Ibuprofen, Paracetamol, Aspirin, Codeine, Loratadine 還是發燒", []),
        ("病人說他不舒服。 The patient has no fever today. 所以在家休息，多喝溫開水就好。",
         [(Script.LATIN, "The patient has no fever today")]),
        ("病人没有发烧，所以在家休息。у него нет жара и кашля сегодня",
         [(Script.CYRILLIC, "у него нет жара и кашля сегодня")]),
        ("病人沒有發燒，所以在家休息，多喝溫開水，睡前量一次體溫，三天後若還不舒服，就到附近的診所請醫師再看一次，記得帶健保卡。彼はとても元気になりました。",
         [(Script.JAPANESE, "はとても元気になりました")]),
        ("No fever at all, so rest at home; 流行性感冒 is influenza, and that is that", []),
        ("No fever at all, so rest at home, drink and sleep well. 病人沒有發燒，在家休息就好。",
         [(Script.TRADITIONAL, "病人沒有發燒，在家休息就好")]),
        ("Où est l'hôpital de la ville, s'il vous plaît ?", []),
        ("熱がある患者です。病人沒有發燒在家休息就好。熱がある患者ですから、休んでください", []),
        ("plain text only, with nothing else in it at all", []),
        ("病" * 40 + "a" * 40, []),
    ],
)  # fmt: skip
def test_passages_in_another_script_are_found_and_terms_are_not(
    text: str, passages: list[tuple[Script, str]]
) -> None:
    assert foreign_passages(text) == passages


def test_a_long_word_of_another_script_takes_no_long_time() -> None:
    assert foreign_passages("病" * 40_000 + "a" * 50_000) == []


@pytest.mark.parametrize(
    ("text", "target", "wanted"),
    [
        ("头发和软件，面包", "traditional", "頭髮和軟件，麵包"),
        ("头发和软件，面包", "taiwan", "頭髮和軟體，麵包"),
        ("面包", "traditional", "麵包"),
        ("里長范先生在公里外，台灣發燒", "traditional", "里長范先生在公里外，台灣發燒"),
        ("里長范先生說，头发", "traditional", "里長范先生說，頭髮"),
        ("頭髮和軟體", "simplified", "头发和软体"),
        ("頭髮，头发和著作", "simplified", "头发，头发和著作"),
        ("Fever 38.5", "traditional", "Fever 38.5"),
        ("学校で国語を勉強する", "traditional", "学校で国語を勉強する"),
        ("The word 头痛 means headache", "traditional", "The word 頭痛 means headache"),
        ("", "taiwan", ""),
    ],
)
def test_only_what_is_in_the_other_script_is_converted(text: str, target: str, wanted: str) -> None:
    assert to_script(text, target) == wanted


def test_an_unknown_script_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="klingon; known: traditional, simplified, taiwan"):
        to_script("头", "klingon")


def test_differences_name_each_replacement_in_order() -> None:
    assert differences("头痛", "头痛") == []
    assert differences("头痛和头晕", "頭痛和頭暈") == [("头", "頭"), ("头晕", "頭暈")]
    assert differences("用数据库吧，谢", "用資料庫系統吧，謝") == [
        ("数据库", "資料庫系統"), ("谢", "謝")]  # fmt: skip
    moved = "一" + "甲乙丙丁戊己庚辛壬癸" * 3
    assert differences(moved + "二", moved[1:] + "二三") == [("一", ""), ("", "三")]


@given(
    st.text(st.sampled_from(SIMPLIFIED + TAIWAN[:31] + "，。\nabc 发財頭"), max_size=61),
    st.sampled_from(sorted(CONVERSIONS)),
)
def test_conversion_leaves_no_character_of_the_other_script(text: str, target: str) -> None:
    after = to_script(text, target)
    assert (traditional_only if target == "simplified" else simplified_only)(after) == []
    replaced = differences(text, after)
    assert (replaced == []) == (after == text)
    assert all(old in text and new in after for old, new in replaced)


@given(st.text(max_size=61))
def test_every_letter_is_counted_once_at_most(text: str) -> None:
    counts = scripts_in(text)
    assert sum(counts.values()) <= len(text)
    assert script_of(text) in (counts or {Script.NONE: 0})
