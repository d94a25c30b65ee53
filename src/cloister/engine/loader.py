"""vLLM's weights out of a sealed model: decrypted tensor by tensor, straight into the model.

Runs in every process of vLLM that holds weights, and again where one is restarted. Gets its key from
the first process over a socket; writes nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from typing import Any

import msgspec
import torch
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from cloister.engine.weights import SealedWeights


class SealedModelLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM ships no types
    """The default loader with another source of weights; sharding over ranks stays vLLM's."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(dataclasses.replace(load_config, model_loader_extra_config={}))
        self.load_config = load_config
        self._source = msgspec.convert(load_config.model_loader_extra_config, SealedWeights)

    def download_model(self, model_config: Any) -> None:
        """Nothing to fetch: the weights lie in the object."""

    def get_all_weights(
        self, model_config: Any, model: Any
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        self.counter_before_loading_weights = time.perf_counter()
        yield from self._source.stream()
