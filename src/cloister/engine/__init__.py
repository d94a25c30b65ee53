"""How vLLM is started on a sealed model: its plugin, its weights, its processes."""
