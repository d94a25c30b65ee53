"""An adapter that never moved is no result, however well the loss fell."""

from __future__ import annotations

import pytest
import torch

import tiny
from cloister.errors import JobFailed
from cloister.training.checkpoint import CheckpointStore


def test_every_layer_moved() -> None:
    before = tiny.adapted()
    outcome = tiny.fine_tune()
    start = {
        name.replace(".default", ""): p.detach() for name, p in before.named_parameters() if "lora_" in name
    }
    assert start.keys() == outcome.last.keys()
    assert all(not torch.equal(start[name], tensor) for name, tensor in outcome.last.items())


def test_a_layer_that_gets_no_gradient_stops_the_first_save(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny.adapted()
    layer = model.get_base_model().model.layers[0].self_attn.v_proj
    layer.lora_B["default"].weight.register_hook(torch.zeros_like)
    kept = CheckpointStore(tmp_path / "c", object_id="ad-0123456789ab", kind="adapter", key=None)
    with pytest.raises(JobFailed) as caught:
        tiny.fine_tune(tiny.config(checkpoint_every=1), made=model, checkpoints=kept)
    assert "v_proj" in str(caught.value)
    assert kept.steps() == []
