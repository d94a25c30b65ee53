from __future__ import annotations

import json

import pytest
import torch
from bitsandbytes.optim import PagedAdamW8bit

import tiny
from cloister.api import TrainConfig
from cloister.errors import Tampered
from cloister.training.optimizer import BETAS, EPS, AdapterOptimizer, load_optimizer, optimizer_state

CPU = torch.device("cpu")


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]


def test_state_goes_through_json_and_tensors_to_the_last_bit() -> None:
    config = TrainConfig(learning_rate=0.01, weight_decay=0.1)
    one, other = parameters(), parameters()
    tiny.hand_over(AdapterOptimizer(one, config, CPU), one, AdapterOptimizer(other, config, CPU), other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_paged_8_bit_state_goes_through_json_and_tensors_to_the_last_bit() -> None:
    """bitsandbytes' own class, which computes on a CPU too: moments of 8 bits, and of 32 where there are few."""

    def made() -> tuple[AdapterOptimizer, list[torch.nn.Parameter]]:
        torch.manual_seed(0)
        own = [torch.nn.Parameter(torch.randn(size)) for size in ((400, 300), (64, 80), (50,))]
        optimizer = AdapterOptimizer(own, TrainConfig(), CPU)
        optimizer._vectors.clear()
        optimizer.torch = PagedAdamW8bit(own, lr=0.01, betas=BETAS, eps=EPS, weight_decay=0.1)
        return optimizer, own

    (first, one), (second, other) = made(), made()
    tensors = tiny.hand_over(first, one, second, other)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.uint8, torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_state_that_does_not_fit_is_refused() -> None:
    own = parameters()
    optimizer = AdapterOptimizer(own, TrainConfig(), CPU)
    tiny.step_optimizer(optimizer, own, 0)
    tensors, document = optimizer_state(optimizer)
    tensors.popitem()
    with pytest.raises(Tampered):
        load_optimizer(optimizer, tensors, document)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_length_of_dora_does_not_decay(decay: float) -> None:
    """It is no difference from the base: at zero it would take the base's own weight with it."""
    matrix, length = parameters()
    before = [tensor.detach().clone() for tensor in (matrix, length)]
    optimizer = AdapterOptimizer([matrix, length], TrainConfig(learning_rate=0.1, weight_decay=decay), CPU)
    for parameter in (matrix, length):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.gradients()
    optimizer.step(0.1)
    assert torch.equal(length, before[1])
    assert torch.allclose(matrix, before[0] * (1 - 0.1 * decay))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_state_by_parameter_of_an_earlier_version_is_taken_up(decay: float) -> None:
    config = TrainConfig(learning_rate=0.01, weight_decay=decay)
    plain, own = parameters(), parameters()
    groups = (
        [{"params": plain}]
        if not decay
        else [{"params": plain[:1]}, {"params": plain[1:], "weight_decay": 0.0}]
    )
    earlier = torch.optim.AdamW(groups, lr=0.01, weight_decay=decay, fused=True)
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in plain:
            parameter.grad = torch.randn_like(parameter)
        earlier.step()
    later = AdapterOptimizer(own, config, CPU)

    class Earlier:
        torch = earlier

    tensors, document = optimizer_state(Earlier())
    copied = {name: tensor.clone() for name, tensor in tensors.items()}
    load_optimizer(later, copied, json.loads(json.dumps(document)))
    with torch.no_grad():
        for mine, theirs in zip(own, plain, strict=True):
            mine.copy_(theirs)
    tiny.step_optimizer(later, own, 9)
    torch.manual_seed(9)
    for parameter in plain:
        parameter.grad = torch.randn_like(parameter)
    earlier.step()
    assert all(torch.allclose(mine, theirs, atol=1e-7) for mine, theirs in zip(own, plain, strict=True))
