"""A row's logits and loss do not depend on the rows beside it, nor on how far they are padded."""

from __future__ import annotations

import pytest
import torch

import tiny
from cloister.models.loss import supervised_loss
from cloister.training.fused import fuse
from cloister.training.rows import RowSource, tokenise


@pytest.mark.parametrize("training", [True, False])
def test_alone_or_in_company(training: bool) -> None:
    model = tiny.adapted().train(training)
    fuse(model)
    data = tiny.rows(24)
    tokens = tokenise(RowSource(data, range(24)), tiny.tokenizer(), 128)
    together = tokens.batch(range(24))
    with torch.set_grad_enabled(training):
        logits = model(together.input_ids, use_cache=False).logits
        for row in range(24):
            alone = tokens.batch([row])
            length = int(tokens.lengths[row])
            own = model(alone.input_ids[:, :length], use_cache=False).logits
            torch.testing.assert_close(logits[row : row + 1, :length], own, rtol=1e-4, atol=1e-5)


def test_losses_add_up() -> None:
    model = tiny.adapted().train()
    fuse(model)
    tokens = tokenise(RowSource(tiny.rows(12), range(12)), tiny.tokenizer(), 128)
    whole = tokens.batch(range(12))
    total = supervised_loss(model, whole.input_ids, whole.supervised)
    parts = [
        supervised_loss(model, b.input_ids, b.supervised) for b in (tokens.batch([i]) for i in range(12))
    ]
    assert total.count == sum(part.count for part in parts) == int(tokens.supervised_counts.sum())
    assert total.nats.item() == pytest.approx(sum(part.nats.item() for part in parts), rel=1e-5)
