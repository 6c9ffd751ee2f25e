"""Rehearsal: the real launch on a machine without its GPUs.

Real Ray, real vLLM and real workers at the real TP x PP on logical GPUs, which are CPUs or one shared NVIDIA GPU. Only
a vLLM platform plugin differs; it is off unless RAYLAUNCH_STANDIN turns it on.
"""

import os

STANDIN_VARIABLE = "RAYLAUNCH_STANDIN"
"""Set to "cpu" or "gpu" in the environment of Ray and the engine by a rehearsal or the demo only."""

_PLATFORMS = {
    "cpu": "raylaunch.engine.rehearsal.cpu_platform.CpuRayPlatform",
    "gpu": "raylaunch.engine.rehearsal.gpu_platform.SharedGpuPlatform",
}


def register() -> str | None:
    """vLLM's platform plugin hook: the class path of the stand-in that is turned on, or None.

    Returns:
        None in every process that no rehearsal started; vLLM then uses its own platform.
    """
    return _PLATFORMS.get(os.environ.get(STANDIN_VARIABLE, ""))
