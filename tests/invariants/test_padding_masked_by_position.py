"""Padding is known by where it stands, never by its id: pad = eos loses no end of turn."""

from __future__ import annotations

import torch

import tiny
from cloister.models.loss import supervised_loss
from cloister.training.rows import RowSource, tokenise


def test_the_pad_token_s_id_does_not_matter() -> None:
    data = RowSource(tiny.rows(8), range(8))
    usual, awkward = tiny.tokenizer(), tiny.tokenizer()
    awkward.pad_token = awkward.eos_token
    batches = [tokenise(data, tokenizer, 128).batch(range(8)) for tokenizer in (usual, awkward)]
    assert torch.equal(batches[0].supervised, batches[1].supervised)
    ends = (batches[1].input_ids == awkward.eos_token_id) & batches[1].supervised
    assert ends.any(1).all()


def test_what_stands_in_the_padding_does_not_matter() -> None:
    model = tiny.model()
    batch = tokenise(RowSource(tiny.rows(8), range(8)), tiny.tokenizer(), 128).batch(range(8))
    last = batch.supervised.float().cumsum(1).argmax(1)
    padding = torch.arange(batch.input_ids.shape[1])[None] > last[:, None]
    assert padding.any()
    wanted = supervised_loss(model, batch.input_ids, batch.supervised)
    for token in (0, 5, 77):
        ids = batch.input_ids.masked_fill(padding, token)
        got = supervised_loss(model, ids, batch.supervised)
        assert got.count == wanted.count
        assert torch.equal(got.nats, wanted.nats)
