import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.data.loader import examples_of_step
from thinktune.data.packing import plan_rows
from thinktune.errors import DataError

LENGTHS = st.lists(st.integers(1, 97), max_size=60)
LARGE = st.integers(97, 400)
NUM = st.integers(1, 41)
SEEDS = st.integers(0, 2**31)


@given(LENGTHS, LARGE)
def test_each_sequence_is_in_exactly_one_row_and_no_row_is_too_long(lengths, max_tokens):
    rows = plan_rows(lengths, max_tokens)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(rows)
    assert all(sum(lengths[index] for index in row) <= max_tokens for row in rows)


@given(LENGTHS, LARGE)
def test_no_two_rows_would_fit_in_one(lengths, max_tokens):
    sums = sorted(sum(lengths[index] for index in row) for row in plan_rows(lengths, max_tokens))
    assert len(sums) < 2 or sums[0] + sums[1] > max_tokens


@given(LENGTHS, LARGE)
def test_the_plan_is_a_function_of_its_arguments(lengths, max_tokens):
    before = list(lengths)
    assert plan_rows(lengths, max_tokens) == plan_rows(tuple(lengths), max_tokens)
    assert lengths == before


@given(LENGTHS, LARGE, st.randoms(use_true_random=False))
def test_the_lengths_of_the_rows_do_not_depend_on_the_order(lengths, max_tokens, random):
    shuffled = list(lengths)
    random.shuffle(shuffled)

    def sums(values):
        return sorted(sorted(values[i] for i in row) for row in plan_rows(values, max_tokens))

    assert sums(lengths) == sums(shuffled)


@given(st.lists(st.integers(1, 50), min_size=1), st.data())
def test_a_sequence_longer_than_a_row_is_refused_by_its_place(lengths, data):
    limit = max(lengths)
    place = data.draw(st.integers(0, len(lengths) - 1))
    too_long = [*lengths[:place], limit + 1, *lengths[place:]]
    with pytest.raises(DataError, match=f"example {place} has {limit + 1} tokens"):
        plan_rows(too_long, limit)
    assert plan_rows(lengths, limit)


def _steps(first, last, **arguments):
    return [index for step in range(first, last) for index in examples_of_step(step, **arguments)]


@given(NUM, NUM, SEEDS)
@settings(max_examples=30, deadline=None)
def test_every_epoch_sees_each_example_once_whatever_the_batch_size(num, batch_size, seed):
    steps = 3 * num // batch_size + 1
    seen = _steps(0, steps, num_examples=num, batch_size=batch_size, seed=seed)
    assert len(seen) == steps * batch_size
    for epoch in range(len(seen) // num):
        assert sorted(seen[epoch * num : (epoch + 1) * num]) == list(range(num))


@given(NUM, NUM, SEEDS, st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_step_is_reproducible_without_those_before_it(num, batch_size, seed, step):
    arguments = {"num_examples": num, "batch_size": batch_size, "seed": seed}
    alone = examples_of_step(step, **arguments)
    assert alone == examples_of_step(step, **arguments)
    assert len(alone) == batch_size
    # The same stretch of the endless order, cut into batches of one.
    single = arguments | {"batch_size": 1}
    assert alone == _steps(step * batch_size, (step + 1) * batch_size, **single)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_each_epoch_and_each_seed_has_an_order_of_its_own(seed):
    num = 41
    first, second = (
        examples_of_step(epoch, num_examples=num, batch_size=num, seed=seed) for epoch in (0, 1)
    )
    other = examples_of_step(0, num_examples=num, batch_size=num, seed=seed + 1)
    assert first != second
    assert first != other
    assert first != sorted(first)
