"""Lines of vLLM, Ray, NCCL, docker and the kernel: their cause, and what to do. Pure text."""
