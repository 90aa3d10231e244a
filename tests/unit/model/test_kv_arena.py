"""Stretches of the arena: never two rows in one place, and all of it free again at the end."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import tiny_decoder
from thinktune.model.kv_arena import KeyValueArena

SHAPE = tiny_decoder("llama").shape
SIZES = st.lists(st.integers(1, 40), max_size=12)


def arena() -> KeyValueArena:
    return KeyValueArena(SHAPE, torch.float32, torch.device("cpu"), 100)


@given(SIZES)
def test_as_many_stretches_can_be_taken_as_are_said_to_fit(sizes: list[int]):
    room = arena()
    fitting = room.num_fitting(sizes)
    assert [room.take(size) is not None for size in sizes[: fitting + 1]] == [True] * fitting + [
        False
    ] * (fitting < len(sizes))


@given(SIZES, st.randoms(use_true_random=False))
def test_stretches_never_overlap_and_make_up_the_whole_once_given_back(sizes, chance):
    room, held = arena(), []
    for size in sizes:
        if held and chance.random() < 0.4:
            room.give_back(*held.pop(chance.randrange(len(held))))
        if (start := room.take(size)) is not None:
            held.append((start, size))
    places = [place for start, size in held for place in range(start, start + size)]
    assert len(set(places)) == len(places)
    assert all(place < 100 for place in places)
    for stretch in held:
        room.give_back(*stretch)
    assert room.take(100) == 0
