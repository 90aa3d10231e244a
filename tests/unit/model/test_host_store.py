"""Products that wait on the host come back whole, in the order a backward pass asks for them."""

import pytest
import torch

from thinktune.model.host_store import NUM_SLOTS, HostStore


@pytest.mark.parametrize("layers", [[3], [1, 4], [0, 1, 2], [0, 2, 3, 7, 8, 11]])
@pytest.mark.parametrize("num_tokens", [1, 5])
def test_every_layer_gets_back_what_it_sent_twice_over(layers: list[int], num_tokens: int):
    store = HostStore(layers, 5, 6, torch.float32, torch.device("cpu"))
    for row in range(2):  # two rows of a step, one after the other
        for layer in layers:
            store.room(layer, num_tokens).fill_(100 * row + layer)
            store.send(layer)
        for layer in reversed(layers):
            products = store.fetch(layer)
            assert products.shape == (num_tokens, 6)
            assert (products == 100 * row + layer).all()
            products.zero_()  # as a backward pass does
            store.release(layer)


def test_only_two_layers_are_on_the_device_and_those_two_never_leave():
    store = HostStore(range(7), 5, 6, torch.float32, torch.device("cpu"))
    assert len(store._slots) == NUM_SLOTS
    assert len(store._host) == 7 - NUM_SLOTS
