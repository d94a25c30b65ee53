"""Keys of a recipe for Axolotl that no setting here stands for: why each is left out, or that it means nothing here.

Words alone; what is carried over, and how, is in `axolotl`.
"""

from __future__ import annotations

OF_OTHERS = {
    "rl": "is for preference training (`rl`)",
    "reward_model": "trains a reward model",
    "process_reward_model": "trains a reward model",
    "diffusion": "trains a diffusion model",
}
"""Keys of recipes for another training than on examples: nothing that is left out would make one of it."""

_PARALLEL = (
    "one machine, data parallel (`processes`), the whole model on each; `batch_size` is of all together, and was "
    "of each GPU there"
)
_PICTURES = "text alone is learnt: no picture and no sound"
_ADAM = "AdamW with its usual moments: 0.9, 0.999 and 1e-8"
_FALLS = "the learning rate falls to nothing at the last step"
_BITS = "the base is kept in NF4 (qlora) or 16 bits (lora)"
_ADAPTER = "the adapter is on every linear layer, and nothing else trains"

LEFT_OUT = {
    "lora_model_dir": "to go on from an earlier adapter, `run start --from-run RUN`",
    "lora_modules_to_save": "embeddings and output layer stay as they are",
    "chat_template_jinja": "a template of one's own is not taken; the base model's is",
    "test_datasets": "another dataset to measure on: `holdout: DATASET` in the run file",
    "neftune_noise_alpha": "no noise is added to embeddings",
    "deepspeed": _PARALLEL,
    "fsdp": _PARALLEL,
    "fsdp_config": _PARALLEL,
    "plugins": "the kernels are chosen by Cloister",
    "trust_remote_code": "code that comes with a model is never run",
    "resume_from_checkpoint": "`cloister run resume RUN`",
    "default_system_message": "given at the import: `cloister dataset import FILE --system-file TEXT`",
    "fsdp_version": _PARALLEL,
    "dp_shard_size": _PARALLEL,
    "dp_replicate_size": _PARALLEL,
    "tensor_parallel_size": _PARALLEL,
    "context_parallel_size": _PARALLEL,
    "expert_parallel_size": _PARALLEL,
    "processor_type": _PICTURES,
    "skip_prepare_dataset": _PICTURES,
    "freeze_mm_modules": _PICTURES,
    "eot_tokens": "what ends a turn is the chat template's",
    "adam_beta1": _ADAM,
    "adam_beta2": _ADAM,
    "adam_epsilon": _ADAM,
    "cosine_min_lr_ratio": _FALLS,
    "cosine_constant_lr_ratio": _FALLS,
    "qat": _BITS,
    "gptq": _BITS,
    "bnb_config_kwargs": _BITS,
    "model_quantization_config": _BITS,
    "unfrozen_parameters": _ADAPTER,
    "lora_target_parameters": _ADAPTER,
    "loss_watchdog_threshold": "a run whose numbers go wrong ends by itself",
    "loss_watchdog_patience": "a run whose numbers go wrong ends by itself",
    "min_sample_len": "no row is left out unseen: `cloister dataset derive --min-characters 20`",
    "revision_of_model": "a base model is imported from a folder, as it is",
}
"""Why each of them is left out, where it says anything."""

MEANINGLESS = frozenset(
    {
        "model_type", "tokenizer_type", "tokenizer_use_fast", "is_llama_derived_model", "is_mistral_derived_model",
        "is_qwen_derived_model", "is_falcon_derived_model", "base_model_config", "dataset_prepared_path",
        "dataset_processes", "dataset_num_proc", "output_dir", "logging_steps", "tf32", "flash_attention",
        "attn_implementation", "sdp_attention", "xformers_attention", "flex_attention", "eager_attention",
        "s2_attention", "pad_to_sequence_len", "group_by_length", "local_rank", "strict", "debug",
        "save_total_limit", "save_safetensors", "save_strategy", "eval_strategy", "eval_batch_size",
        "eval_sample_packing", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "gradient_checkpointing_kwargs", "dataloader_num_workers", "dataloader_pin_memory",
        "dataloader_prefetch_factor", "shuffle_merged_datasets", "use_tensorboard", "eval_table_size",
        "eval_max_new_tokens", "lora_fan_in_fan_out", "lora_on_cpu", "lora_mlp_kernel", "lora_qkv_kernel",
        "lora_o_kernel", "ddp_find_unused_parameters", "include_tokens_per_second", "auto_resume_from_checkpoints",
        "remove_unused_columns", "use_kernels", "activation_offloading", "torch_compile", "flex_attn_compile_kwargs",
        "cut_cross_entropy", "save_only_model", "low_cpu_mem_usage", "tokenizer_use_mistral_common", "tiled_mlp",
    }
)  # fmt: skip
"""Kept for people's files: what Cloister decides by itself or does not have, without influence on the result."""

MEANINGLESS_BEGINNINGS = ("wandb_", "mlflow_", "comet_", "hub_", "hf_", "liger_", "flash_attn_")
"""So begin keys of trackers, of hubs and of kernels."""
