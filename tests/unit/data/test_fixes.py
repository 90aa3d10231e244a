import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.fixes import FIXES, apply_fix, choose_fixes
from thinktune.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("mojibake", "cafÃ© costs 5 â‚¬ â€“ itâ€™s fine", "café costs 5 € – it’s fine"),
        ("mojibake", "æ„Ÿå†’ã€‚", "感冒。"),
        ("mojibake", "Ã\x83Â©", "é"),
        ("html", "a<br>b<p class='x'>c</p>", "a\nb\nc\n"),
        ("html", "<!-- no --><b>bold</b> &amp; <i>so</i>&nbsp;on", "bold & so on"),
        ("html", "<script>evil()</script>fine", "fine"),
        ("control", "a\x00b\x1b[0mc\td\ne", "ab[0mc\td\ne"),
        ("invisible", "\ufeffa\u200bb\u202ec\u00add", "abcd"),
        ("calculator", "3*4 = <<3*4=12>>12, $<<1,000*.5=500.0>>500", "3*4 = 12, $500"),
        ("unicode", "e\u0301", "é"),
        ("whitespace", "  a \r\nb\t\n\n\n\nc\n", "a\nb\n\nc"),
    ],
)
def test_a_fix_puts_right_what_it_is_for(name: str, text: str, wanted: str) -> None:
    assert FIXES[name](text) == wanted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mojibake", "«CAFÉ» “AMANHÃ” voilà… José’s, naïve über-Straße, Điện Biên Phủ"),
        ("mojibake", "感冒。發燒 38.5 度"),
        (
            "html",
            "if a < b and b > c: List<String> x; <think> <<3*4=12>> a<b>c&d AT&T ?a=1&para=2"[:47],
        ),
        ("html", "?a=1&para=2 and AT&T, x<y>z"),
        ("control", "tab\there\nline"),
        ("invisible", "👩\u200d⚕️ می\u200cخواهم"),
        ("calculator", 'cout << "a=" << b; x <<= 3; y >>= 4'),
        ("whitespace", "def f():\n    return  1"),
    ],
)
def test_a_fix_leaves_proper_text_alone(name: str, text: str) -> None:
    assert FIXES[name](text) == text


def test_no_fix_writes_a_think_tag_into_a_text() -> None:
    text = "a &lt;think&gt; tag &amp; more"
    assert FIXES["html"](text) == "a <think> tag & more"
    assert apply_fix(FIXES["html"], text) == text
    assert apply_fix(FIXES["control"], "<th\x00ink>") == "<th\x00ink>"


def test_fixes_are_made_in_their_own_order_and_unknown_ones_refused() -> None:
    assert list(choose_fixes(["whitespace", "html"])) == ["html", "whitespace"]
    with pytest.raises(ConfigError, match="no fix is called 'htlm'; known: mojibake, html"):
        choose_fixes(["htlm"])


@given(st.text(alphabet="aé\u0301Ã©â€™å¤§ <b>&;\r\n\x00\u200b«»”…"))
def test_fixing_mojibake_space_and_signs_twice_is_fixing_once(text: str) -> None:
    for name in ("control", "invisible", "calculator", "unicode", "whitespace"):
        once = FIXES[name](text)
        assert FIXES[name](once) == once, name


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1))
def test_chinese_read_in_the_wrong_encoding_comes_back_whole(text: str) -> None:
    assert FIXES["mojibake"]("說：" + text.encode().decode("latin-1")) == "說：" + text
