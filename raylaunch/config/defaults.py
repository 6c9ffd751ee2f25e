"""Defaults that several rooms share. Standard library only: `raylaunch --help` shows some of them."""

DEMO_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model that is served where a launch names none; data/demo.yaml names it too, a test compares them."""
MODELS_FOLDER = "/data"
"""Folder of the models on every host of a cluster."""
SSH_KEY = "~/.ssh/id_ed25519"
UP_WAIT_S = 1800.0
"""Longest wait of `raylaunch up`: a first build of the image on slow links."""
GPU_MEMORY_UTILIZATION = 0.92
"""vLLM's own default (0.32: CacheConfig.gpu_memory_utilization)."""
