"""One token out of scores: the draw, the temperature and the nucleus."""

import pytest
import torch

from thinktune.generation.drawing import next_tokens

GRID = 4001
# Most grid points by which a token's count may miss its probability: one at each end.
TOLERANCE = {"count": 2.0}  # measured 0.93


def _nucleus(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """The distribution, token by token, in plain Python."""
    exponents = [2.718281828459045 ** (x / temperature) for x in logits]
    probabilities = [x / sum(exponents) for x in exponents]
    order = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    kept, held = [], 0.0
    for token in order:
        if held >= top_p:
            break
        kept.append(token)
        held += probabilities[token]
    return [p / held if token in kept else 0.0 for token, p in enumerate(probabilities)]


LOGITS = {
    "one token": [0.3],
    "spread": [0.1, 2.0, -1.0, 1.1, 0.7, -3.0, 1.9],
    "flat": [1.0, 1.001, 0.999, 1.002, 0.998],
    "peaked": [0.0, 9.0, 0.0, 1.0, -5.0],
}


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.3, 0.77, 0.95, 1.0])
def test_a_grid_of_draws_gives_the_nucleus_distribution(
    logits: list[float], temperature: float, top_p: float
):
    draws = (torch.arange(GRID) + 0.5) / GRID
    rows = torch.tensor(logits).expand(GRID, -1)
    chosen = next_tokens(rows, draws, temperature=temperature, top_p=top_p)
    counts = torch.bincount(chosen, minlength=len(logits))
    wanted = torch.tensor(_nucleus(logits, temperature, top_p))
    assert (counts - GRID * wanted).abs().max() <= TOLERANCE["count"]
    assert not counts[wanted == 0].any()


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 7, 50_021])
def test_the_first_and_the_last_draw_give_a_token_of_the_nucleus(
    draw: float, top_p: float, size: int
):
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    chosen = next_tokens(logits, torch.full((3,), draw), temperature=1.0, top_p=top_p)
    assert ((chosen >= 0) & (chosen < size)).all()
    likeliest = logits.argmax(-1)
    if draw == 0 or top_p == 1e-6:
        assert torch.equal(chosen, likeliest)
    elif size > 7:
        assert not torch.equal(chosen, likeliest)


def test_a_token_that_cannot_be_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0]]).expand(101, -1)
    chosen = next_tokens(logits, torch.linspace(0, 1 - 2**-24, 101), temperature=1.0, top_p=1.0)
    assert set(chosen.tolist()) == {1, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_temperature_zero_takes_the_likeliest_whatever_the_draw(dtype: torch.dtype):
    logits = torch.randn(5, 31, generator=torch.Generator().manual_seed(0)).to(dtype)
    chosen = next_tokens(logits, torch.linspace(0, 0.99, 5), temperature=0.0, top_p=0.5)
    assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-4, 1e-30])
def test_a_temperature_near_zero_takes_the_likeliest(temperature: float):
    logits = torch.tensor([[1.0, 3.0, 2.0], [-7.0, -9.0, -8.0]])
    chosen = next_tokens(logits, torch.tensor([0.0, 0.999]), temperature=temperature, top_p=0.95)
    assert chosen.tolist() == [1, 0]


def test_each_row_uses_its_own_scores_and_its_own_draw():
    logits = torch.tensor([[0.0, 5.0], [5.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    draws = torch.tensor([0.5, 0.5, 0.2, 0.8])
    chosen = next_tokens(logits, draws, temperature=1.0, top_p=1.0)
    assert chosen.tolist() == [1, 0, 0, 1]
