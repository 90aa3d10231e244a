import time

import pytest

from thinktune.answers.labels import find_labels, label_of, labels_from, mentions
from thinktune.errors import ConfigError

CLINIC = {
    "common cold": ["cold", "普通感冒", "感冒"],
    "influenza": ["flu", "流感", "流行性感冒"],
    "gastroenteritis": ["stomach flu", "腸胃炎", "腸胃型感冒"],
    "bronchitis": ["支氣管炎"],
    "sinusitis": ["鼻竇炎"],
    "skin infection": ["皮膚感染"],
}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Most likely INFLUENZA.", ("influenza",)),
        ("**Diagnosis:** _flu_", ("influenza",)),
        ("A common-cold, I think", ("common cold",)),
        ("a common\n  cold", ("common cold",)),
        ("Ｆｌｕ", ("influenza",)),
        ("cold or flu, so a cold", ("common cold", "influenza")),
        ("nothing to worry about", ()),
        ("", ()),
    ],
)
def test_labels_are_found_whatever_their_case_width_and_markup(answer, found):
    assert find_labels(answer, CLINIC) == found


@pytest.mark.parametrize("answer", ["fluid", "influenzal", "affluent", "scolding", "flu2", "flué"])
def test_a_latin_alias_inside_a_word_is_not_a_label(answer):
    assert find_labels(answer, CLINIC) == ()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("您可能患有流感，請多休息", ("influenza",)),
        ("這是流行性感冒", ("influenza",)),
        ("診斷為普通感冒。", ("common cold",)),
        ("診斷是flu嗎", ("influenza",)),
        ("腸胃型感冒（腸胃炎）", ("gastroenteritis",)),
    ],
)
def test_labels_are_found_inside_chinese_text(answer, found):
    assert find_labels(answer, CLINIC) == found


def test_the_longest_alias_wins_where_aliases_overlap():
    assert find_labels("stomach flu", CLINIC) == ("gastroenteritis",)
    assert find_labels("stomach flu, not flu", CLINIC) == ("gastroenteritis", "influenza")
    late = {"a": ["big bad"], "b": ["bad stomach flu"]}
    assert find_labels("big bad stomach flu", late) == ("b",)


def test_negations_are_not_understood():
    assert find_labels("non-sinusitis; no sign of flu", CLINIC) == ("sinusitis", "influenza")


def test_a_one_letter_label_must_appear_in_its_own_case():
    options = {"A": [], "B": []}
    assert find_labels("it is a matter of taste: B", options) == ("B",)


def test_an_alias_of_two_labels_is_refused():
    with pytest.raises(ConfigError, match="'Flu' belongs to both 'influenza' and 'stomach'"):
        find_labels("", {"influenza": ["flu"], "stomach": ["Flu"]})
    with pytest.raises(ConfigError, match="empty alias"):
        find_labels("", {"influenza": [" "]})


def test_a_reference_may_be_a_label_an_alias_or_a_text_naming_one_label():
    assert label_of("Influenza", CLINIC) == "influenza"
    assert label_of("Stomach Flu", CLINIC) == "gastroenteritis"
    assert label_of("Flu (viral)", CLINIC) == "influenza"
    for reference in ("asthma", "flu or cold"):
        with pytest.raises(ConfigError, match="not one of the labels"):
            label_of(reference, CLINIC)


def test_distinct_references_become_labels_in_order_of_first_appearance():
    assert labels_from(["flu", "cold", "Flu ", "cough"]) == {"flu": [], "cold": [], "cough": []}


def test_mentions_keep_their_order_and_number():
    text = "A cold, or the flu? No fever, so a cold; influenza is unlikely."
    assert mentions(text, CLINIC) == ["common cold", "influenza", "common cold", "influenza"]


def test_a_looping_text_is_searched_in_no_time():
    begun = time.perf_counter()
    assert find_labels("stomach flu, flu, " * 20_000, CLINIC) == ("gastroenteritis", "influenza")
    assert time.perf_counter() - begun < 3
