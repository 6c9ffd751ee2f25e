"""What fits on which GPUs, by arithmetic: weights, overhead, KV cache, wire cost of every layout of a model."""
