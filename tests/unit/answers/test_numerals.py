import time
from decimal import Decimal

import pytest

from thinktune.answers.numbers import find_number, is_number
from thinktune.answers.numerals import read_numeral, to_digits


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("三十五", "35"),
        ("十五", "15"),
        ("一百零二", "102"),
        ("兩千三百", "2300"),
        ("两千三百", "2300"),
        ("一百二", "120"),
        ("三千五", "3500"),
        ("兩萬五", "25000"),
        ("五萬", "50000"),
        ("五万", "50000"),
        ("一億零五十萬", "100500000"),
        ("一萬兩千億", "1200000000000"),
        ("3萬5千", "35000"),
        ("3.5萬", "35000"),
        ("10 萬元", "100000"),
        ("12億3000萬", "1230000000"),
        ("1,200萬", "12000000"),
        ("三點五", "3.5"),
        ("三点一四", "3.14"),
        ("三點五萬", "35000"),
        ("零點二五", "0.25"),
        ("負三", "-3"),
        ("答案是負三十五。", "-35"),
        ("零下五度", "-5"),
        ("零下5度", "-5"),
        ("百分之五十", "50"),
        ("百分之三點五", "3.5"),
        ("百分之50", "50"),
        ("百分之百", "100"),
        ("百分百", "100"),
        ("千分之五", "5"),
        ("四分之三", "0.75"),
        ("十分之三", "0.3"),
        ("負二分之一", "-0.5"),
        ("二〇二四年", "2024"),
        ("一九九八年", "1998"),
        ("共三十五顆，每天吃三顆", "35"),
        ("這五十一起送出", "50"),
        ("答案是35。這兩種方法都可以", "35"),
    ],
)
def test_a_written_out_number_is_read(text, number):
    assert find_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("三", "3"),
        ("**八**。", "8"),
        ("一個", "1"),
        ("所以答案是二。", "2"),
        ("答案：零", "0"),
        ("三加四等於七。", "7"),
        ("他有五個蘋果", "5"),
        ("需要三天", "3"),
        ("要兩小時", "2"),
    ],
)
def test_a_single_numeral_is_read_where_it_is_all_or_answers_or_counts(text, number):
    assert find_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "一些",
        "一般來說",
        "一起去",
        "一定",
        "三明治",
        "十分疼痛",
        "萬一發燒",
        "千萬不要",
        "百萬富翁",
        "百日咳",
        "七八個",
        "十幾個",
        "一百二十幾",
        "數十萬人",
        "幾百塊",
        "三五好友",
        "星期五",
        "禮拜三",
        "第三天",
        "第三十五名",
        "三年級",
        "三點五十分",
        "下午三點",
        "有三點一定要注意",
        "十二指腸潰瘍",
        "十二指肠",
        "五十肩",
        "二次感染",
        "二尖瓣",
        "三叉神經痛",
        "四肢無力",
        "這是一個問題",
        "一樓",
        "一五一十",
        "七七八八",
        "三三兩兩",
        "不管三七二十一",
        "負責",
        "半天",
        "一半",
        "四川",
        "五官",
        "八卦",
        "九宮格",
        "亂七八糟",
        "零食",
        "億萬",
        "百分之",
        "點",
    ],
)
def test_a_numeral_in_a_word_an_ordinal_or_a_guess_is_no_number(text):
    assert to_digits(text) == text
    assert find_number(text) is None


def test_a_kilo_in_chinese_stays_a_unit():
    assert find_number("5千克") == 5
    assert find_number("三千克") == 3
    assert find_number("兩萬五千克") == 25000


def test_a_numeral_that_is_not_well_formed_has_no_value():
    for text in ("", "萬", "七八十", "一一", "十百", "三零零五", "一萬三萬", "百"):
        assert read_numeral(text) is None


def test_only_a_text_that_is_all_numeral_is_a_number():
    assert all(map(is_number, ["三十五", "三", "3萬5千", "百分之五十", "負三"]))
    assert not any(map(is_number, ["三十五顆", "一些", "三明治", "三 五"]))


@pytest.mark.parametrize(
    "text", ["一", "十", "9", "一 ", "三點", "百分之", "負", "9,", "數十", "* "]
)
def test_looping_numerals_are_read_in_no_time(text):
    begun = time.perf_counter()
    find_number("一" + text * 10_000 + "幾")
    assert time.perf_counter() - begun < 2
