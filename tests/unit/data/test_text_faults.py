import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.text_faults import PERSONAL, FaultKind, find_text_faults

ROOT = Path(__file__).parents[3]


def kinds(text: str) -> list[tuple[FaultKind, str]]:
    return [(fault.kind, fault.snippet) for fault in find_text_faults(text)]


@pytest.mark.parametrize(
    ("kind", "text", "snippet"),
    [
        (FaultKind.CONTROL, "fever\x00 and", "\x00"),
        (FaultKind.CONTROL, "fi\ufffd\ufffdvre", "\ufffd\ufffd"),
        (FaultKind.CONTROL, "發燒\x7f了", "\x7f"),
        (FaultKind.INVISIBLE, "fe\u200bver", "\u200b"),
        (FaultKind.INVISIBLE, "\ufeff發燒", "\ufeff"),
        (FaultKind.INVISIBLE, "a\u202eb", "\u202e"),
        (FaultKind.INVISIBLE, "發\u200d燒", "\u200d"),
        (FaultKind.MOJIBAKE, "un cafÃ© noir", "Ã©"),
        (FaultKind.MOJIBAKE, "le mois d'aoÃ»t", "Ã»"),
        (FaultKind.MOJIBAKE, "it hasnâ€™t rained", "â€™"),
        (FaultKind.MOJIBAKE, "38.5 Â°C", "Â°"),
        (FaultKind.MOJIBAKE, "ä½ å¥½".replace(" ", "\xa0"), "ä½\xa0å¥½"),
        (FaultKind.MOJIBAKE, "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚"),
        (FaultKind.MOJIBAKE, "nice ðŸ˜€ day", "ðŸ˜€"),
        (FaultKind.MOJIBAKE, "ÄãºÃ, doctor", "ÄãºÃ"),
        (FaultKind.MOJIBAKE, "¤¤¤å text", "¤¤¤å"),
        (FaultKind.MOJIBAKE, "发烧锟斤拷头痛", "锟斤拷"),
        (FaultKind.MOJIBAKE, "嚙踝蕭發燒", "嚙踝蕭"),
        (FaultKind.MOJIBAKE, "烫烫烫", "烫烫烫"),
        (FaultKind.HTML, "one<br>two", "<br>"),
        (FaultKind.HTML, "<div class='x y'>", "<div class='x y'>"),
        (FaultKind.HTML, '<custom-note id="3">', '<custom-note id="3">'),
        (FaultKind.HTML, "a&nbsp;b", "&nbsp;"),
        (FaultKind.HTML, "5 &#60; 6", "&#60;"),
        (FaultKind.HTML, "發燒<BR/>頭痛", "<BR/>"),
        (FaultKind.HTML, "<!-- note -->", "<!--"),
        (
            FaultKind.EMAIL,
            "寫信到 li.ming+x@mail.example.com.tw。",
            "li.ming+x@mail.example.com.tw",
        ),
        (FaultKind.PHONE, "call +886 2 2345 6789 now", "+886 2 2345 6789"),
        (FaultKind.PHONE, "call +4930123456", "+4930123456"),
        (FaultKind.PHONE, "+1 (555) 234-5678", "+1 (555) 234-5678"),
        (FaultKind.PHONE, "(555) 234-5678", "(555) 234-5678"),
        (FaultKind.PHONE, "ring 555-234-5678.", "555-234-5678"),
        (FaultKind.PHONE, "手機0912-345-678", "0912-345-678"),
        (FaultKind.PHONE, "手機0912345678，家裡", "0912345678"),
        (FaultKind.PHONE, "電話 02-2345-6789", "02-2345-6789"),
        (FaultKind.PHONE, "(04)2345-6789", "(04)2345-6789"),
        (FaultKind.PHONE, "Tel. 030 12345678", "030 12345678"),
        (FaultKind.PHONE, "Tel. 0171/1234567", "0171/1234567"),
        (FaultKind.PHONE, "手机：13812345678", "13812345678"),
        (FaultKind.PHONE, "138 1234 5678", "138 1234 5678"),
        (FaultKind.ID_NUMBER, "身分證A123456789", "A123456789"),
        (FaultKind.ID_NUMBER, "SSN 123-45-6789", "123-45-6789"),
        (FaultKind.ID_NUMBER, "身份证11010519491231002X", "11010519491231002X"),
        (FaultKind.CARD, "card 4111 1111 1111 1234", ""),
        (FaultKind.CARD, "card 4539 1488 0343 6467", "4539 1488 0343 6467"),
        (FaultKind.CARD, "5555555555554444 is no card", ""),
        (FaultKind.CARD, "amex 378282246310005", "378282246310005"),
        (FaultKind.IBAN, "IBAN DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
        (FaultKind.IBAN, "GB29 NWBK 6016 1331 9268 19", "GB29 NWBK 6016 1331 9268 19"),
        (FaultKind.IBAN, "DE89370400440532013001", ""),
        (FaultKind.IP_ADDRESS, "from 192.168.1.10 at", "192.168.1.10"),
        (FaultKind.IP_ADDRESS, "from 10.0.0.12", "10.0.0.12"),
        (FaultKind.IP_ADDRESS, "at 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334"),
        (FaultKind.NAME, "Ask Mr. Smith.", "Mr. Smith"),
        (FaultKind.NAME, "Dr. Jane Doe said", "Dr. Jane Doe"),
        (FaultKind.NAME, "Frau Dr. Müller kommt", "Frau Dr. Müller"),
        (FaultKind.NAME, "王先生昨天發燒", "王先生"),
        (FaultKind.NAME, "昨天陳醫師說", "陳醫師"),
        (FaultKind.NAME, "欧阳女士", "欧阳女士"),
        (FaultKind.NAME, "王小明先生昨天發燒", "王小明先生"),
        (FaultKind.NAME, "請問李太太", "李太太"),
    ],
)
def test_each_kind_of_fault_is_found_with_the_text_that_shows_it(
    kind: FaultKind, text: str, snippet: str
) -> None:
    assert kinds(text) == ([(kind, snippet)] if snippet else [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Line one\r\n\tline two",
        # French, German, Portuguese, Spanish, Vietnamese, Czech, Icelandic
        "Voilà\xa0»\xa0: « déjà vu », à côté de l'âge, coûté 5\xa0€ — “café”…",
        "„Spaß“ und „Ü“ – „Ärger“, Größe, Übung; 38,5 °C, 5 µg, 3 m²",
        "NÃO, IRMÃ”, a maçã não é órgão; nº 5, 3ª vez; “IRMÔ",
        "¿Qué? —dijo José—¿Y tú? ¡Olé! ESPAÑA “CAÑÓN” º ª",
        "Bệnh nhân bị sốt và ho, uống thuốc hạ sốt; ÂM TÍNH, ĐÃ KHỎI",
        "„Též“ řekl, „máš“ vše…",
        "það er gott, ÞÁ, ðað",
        "äöüÄÖÜß áéíóú àâéèêëïî",
        # Chinese, Japanese, emoji, Persian
        "屯門發燒38.5度，體溫計·三餐後；銀行、烫伤、拷貝",
        "繧繝縁の畳、私は学生です。",
        "👨\u200d👩\u200d👧 and می\u200cخواهم",
        # code, maths, other tags
        "if a < b and b > c: x <- y; 3 <4> 5",
        "<think>so</think> <answer>4</answer> 48/2 = <<48/2=24>>24",
        "List<String> m = new HashMap<Key, List<Value>>(); R&D; AT&T; a && b;",
        "<patient> has <unk> <|im_end|> </s>",
        # numbers that belong to nobody
        "120/80 mmHg, WBC 12,000-15,000, 1000000 cells, 2024-01-15, 15.03.2024",
        "10:20:30, 3-5, 2019-2024, 1.000.000,50, $1,234,567.89, 3.14159265358979",
        "700-300-2000=-1600 and 555-234-5678=-5357 and 12345678901234567890",
        "the codes 032 202 30 and 03104 04103 and 0104 140 014 0410",
        "+12 and +1.23456789012 and +1 000 000 000",
        "version 1.2.3.14, section 4.1.2.3, 127.0.0.1, std::vector::size, x[1::2]",
        "A123456788 is no ID, nor are 000-12-3456 and 110105194912310021",
        "台灣2024年12月31日，血壓120到130，ISBN 9789863123456",
        # titles without names, words that end like a surname
        "Dr. and Mr. are titles; a Miss is as good as a mile; M&Ms. The end",
        "請醫師看，緊張醫師會罵；任何醫師、主治醫師、許多老師、先生您好，也許醫生知道",
        "方便麵，江湖，馬上看醫師；王醫院；小姐們，太太",
        "user@localhost, @name, a@b",
    ],
)
def test_proper_text_has_no_fault(text: str) -> None:
    assert kinds(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Déjà vu à l'été, où le garçon dîna: « bœuf », 5 €",
        "Größe und Übelkeit, heiße Äpfel",
        "Não há órgãos; coração",
        "病人發燒三天，喉嚨痛。",
        "病人发烧三天，喉咙痛。",
        "Привет, как дела?",
        "Bệnh nhân bị sốt",
    ],
)
def test_text_read_as_latin_is_found_and_the_text_itself_is_not(text: str) -> None:
    as_bytes = text.encode()
    read_wrong = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in as_bytes)
    assert FaultKind.MOJIBAKE in dict(kinds(read_wrong))
    assert FaultKind.MOJIBAKE in dict(kinds(as_bytes.decode("latin-1")))
    assert kinds(text) == []


@pytest.mark.parametrize(
    ("text", "encoding"), [("病人發燒三天，喉嚨痛。", "big5"), ("病人发烧三天，喉咙痛。", "gbk")]
)
def test_chinese_encodings_read_as_latin_are_found(text: str, encoding: str) -> None:
    read_wrong = text.encode(encoding).decode("latin-1")
    assert FaultKind.MOJIBAKE in dict(kinds(read_wrong))


def test_utf8_read_as_gbk_is_found() -> None:
    text = "病人发烧三天，喉咙痛。"
    assert FaultKind.MOJIBAKE in dict(kinds(text.encode().decode("gbk", "ignore")))


def test_several_faults_come_kind_by_kind() -> None:
    text = "Mr. Smith, 0912-345-678 or 02-2345-6789<br>\x00 a@example.org"
    assert kinds(text) == [
        (FaultKind.CONTROL, "\x00"),
        (FaultKind.HTML, "<br>"),
        (FaultKind.EMAIL, "a@example.org"),
        (FaultKind.PHONE, "0912-345-678"),
        (FaultKind.PHONE, "02-2345-6789"),
        (FaultKind.NAME, "Mr. Smith"),
    ]


def test_personal_kinds_are_those_about_a_person() -> None:
    others = {FaultKind.CONTROL, FaultKind.INVISIBLE, FaultKind.MOJIBAKE, FaultKind.HTML}
    assert set(FaultKind) - PERSONAL == others


def test_the_data_sets_of_the_project_have_no_fault() -> None:
    paths = sorted((ROOT / "src/thinktune/assets/data").rglob("*.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    assert len(rows) > 100
    texts = [row[field] for row in rows for field in ("question", "reasoning", "answer")]
    assert [fault for text in texts for fault in kinds(text)] == []


@given(st.text(max_size=67))
def test_every_snippet_is_a_piece_of_the_text(text: str) -> None:
    assert all(snippet and snippet in text for _, snippet in kinds(text))


@given(st.text(st.sampled_from("0123456789 -.+()/ABX:"), max_size=53))
def test_numbers_of_any_form_are_read_without_error(text: str) -> None:
    assert all(snippet in text for _, snippet in kinds(text))
