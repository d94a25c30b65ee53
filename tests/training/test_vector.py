"""Parameters as one vector: they stay what they are in their model, and no gradient gets lost on the way."""

from __future__ import annotations

import torch
from torch import nn

from cloister.training.vector import Vector


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))


def loss(of: nn.Module) -> torch.Tensor:
    return of(torch.arange(6.0).view(2, 3)).square().sum()


def gradients(of: nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.reshape(-1) for each in of.parameters()])


def test_the_model_computes_with_the_vector() -> None:
    own = model()
    before = [each.detach().clone() for each in own.parameters()]
    vector = Vector(list(own.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(own.parameters(), before, strict=True))
    versions = [each._version for each in own.parameters()]
    with torch.no_grad():
        vector.whole.zero_()
    vector.changed()
    assert not any(each.any() for each in own.parameters())
    assert all(each._version > seen for each, seen in zip(own.parameters(), versions, strict=True))


def test_gradients_add_up_in_place_and_those_from_elsewhere_are_taken_in() -> None:
    plain, own = model(), model()
    vector = Vector(list(own.parameters()))
    for _ in range(2):
        loss(plain).backward()
        vector.clear()
        loss(own).backward()
        loss(own).backward()
        vector.gather()
        assert torch.allclose(vector.whole.grad, 2 * gradients(plain))
        own.zero_grad(set_to_none=True)  # as after memory ran out in the middle
        loss(own).backward()
        vector.gather()
        assert torch.equal(vector.whole.grad, gradients(plain))
        assert torch.equal(gradients(own), gradients(plain))
        plain.zero_grad()


def test_a_parameter_without_a_gradient_has_none_of_the_step_before() -> None:
    own = model()
    vector = Vector(list(own.parameters()))
    vector.clear()
    loss(own).backward()
    own.zero_grad(set_to_none=True)
    own[0](torch.ones(1, 3)).sum().backward()
    vector.gather()
    assert vector.whole.grad[:12].any()
    assert not vector.whole.grad[12:].any()
