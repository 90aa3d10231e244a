from thinktune.answers.wording import normalise


def test_normalising_twice_is_normalising_once():
    once = normalise("  「Ｔｈｅ  Straße」！ ")
    assert once == "the strasse"
    assert normalise(once) == once
