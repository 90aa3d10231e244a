"""Cards are found as people call them, and hold less than they are sold as."""

import pytest

from thinktune.cards import CARDS, GIB, card_of_device, find_card
from thinktune.errors import ConfigError

SOLD_GB = {
    "t4": 16, "rtx3090": 24, "rtx4090": 24, "rtx5090": 32, "a10g": 24, "l4": 24, "l40s": 48,
    "a100-40": 40, "a100-80": 80, "h100": 80, "h200": 141, "b200": 180,
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("t4", "t4"),
        ("Tesla T4", "t4"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("5090", "rtx5090"),
        ("A100", "a100-80"),
        ("a100_40gb", "a100-40"),
        ("H100-80GB", "h100"),
    ],
)
def test_a_card_is_found_however_it_is_spelt(asked: str, name: str) -> None:
    assert find_card(asked) is CARDS[name]


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_found_by_its_own_name_and_by_its_title(name: str) -> None:
    assert find_card(name) is CARDS[name]
    assert find_card(CARDS[name].title) is CARDS[name]


@pytest.mark.parametrize("asked", ["24", "24GiB", "24.0gb"])
def test_a_number_is_a_card_of_so_many_gib_of_which_nothing_else_is_known(asked: str) -> None:
    card = find_card(asked)
    assert card.total_gib == 24
    assert card.speed is None
    assert card.rent is None
    assert card.has_fp8
    assert 22 < card.usable_bytes / GIB < 23


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("rtx4080", "did you mean rtx4090"),
        ("h10", "did you mean h100"),
        ("mi300x", "no such card is known; known: t4"),
        ("0", "no card has 0 GiB"),
        ("-8", "no card has -8 GiB"),
        ("nan", "no card has nan GiB"),
        ("inf", "no card has inf GiB"),
    ],
)
def test_a_card_that_is_none_is_refused_with_those_that_are(asked: str, told: str) -> None:
    with pytest.raises(ConfigError, match="known") as caught:
        find_card(asked)
    assert told in str(caught.value)


def test_a_step_finds_less_than_a_card_is_sold_as() -> None:
    assert list(CARDS) == list(SOLD_GB)
    for name, card in CARDS.items():
        assert 0.8 * SOLD_GB[name] < card.usable_bytes / GIB < 0.97 * SOLD_GB[name]


def test_capability_decides_which_types_a_card_multiplies() -> None:
    assert [name for name, card in CARDS.items() if not card.has_bfloat16] == ["t4"]
    without = [name for name, card in CARDS.items() if not card.has_fp8]
    assert without == ["t4", "rtx3090", "a10g", "a100-40", "a100-80"]
    for card in CARDS.values():
        assert card.speed is not None
        assert (card.speed.fp8_tflops is not None) == card.has_fp8
        assert not card.has_fp8 or card.speed.fp8_tflops == pytest.approx(
            2 * card.speed.tflops, rel=0.02
        )


def test_every_rent_says_whose_it_is_and_when_it_was_read() -> None:
    for card in CARDS.values():
        if card.rent is not None:
            assert card.rent.source.endswith("/pricing")
            assert card.rent.read_on.startswith("2026-")


@pytest.mark.parametrize(
    ("device", "gib", "capability", "title"),
    [
        ("Tesla T4", 14.74, (7, 5), "T4"),
        ("NVIDIA A100-SXM4-80GB", 79.25, (8, 0), "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", 39.39, (8, 0), "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", 79.19, (9, 0), "H100"),
        ("NVIDIA GeForce RTX 4090", 23.65, (8, 9), "RTX 4090"),
        ("NVIDIA L4", 22.03, (8, 9), "L4"),
        ("NVIDIA L40S", 44.4, (8, 9), "L40S"),
    ],
)
def test_a_device_is_known_by_what_its_driver_calls_it(device, gib, capability, title) -> None:
    card = card_of_device(device, gib, capability)
    assert card.title == title
    assert card.total_gib == gib
    assert card.speed == find_card(title).speed


def test_an_unknown_device_keeps_its_name_and_has_no_speed() -> None:
    card = card_of_device("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7, (8, 9))
    assert card.title == "NVIDIA GeForce RTX 4090 Laptop GPU"
    assert card.speed is None
    assert card.has_fp8
    assert not card.attends_ragged
