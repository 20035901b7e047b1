"What every test leaves as it found it."

import os
import sys

import pytest


def open_autocasts(torch):
    "How many autocasts are open, one inside the other."
    with_one_more = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return with_one_more - 1


def state():
    "What one test can spoil for the next in the same process; PyTorch only where it was imported."
    found = dict(folder=os.getcwd())
    torch = sys.modules.get('torch')
    if torch is not None and hasattr(torch, 'autocast_increment_nesting'):
        found.update(
            autocasts=open_autocasts(torch),
            dtype=torch.get_default_dtype(),
            gradients=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
    return found


@pytest.fixture(autouse=True)
def nothing_spoiled():
    before = state()
    yield
    after = state()
    spoiled = {k: (before[k], after[k]) for k in before if before[k] != after[k]}
    assert not spoiled, f'left changed by this test, as (before, after): {spoiled}'
