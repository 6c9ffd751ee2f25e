"""Names of the NVIDIA driver's codes: clock event reasons and Xids."""

import re

OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA major -> oldest driver branch that runs any of its minor versions (docs.nvidia.com/deploy/cuda-compatibility,
minor version compatibility, table 1)."""
CUDA_12_IMAGES = "vLLM 0.19 and older images carry CUDA 12"
BLACKWELL_CUDA = (12, 8)
"""Oldest CUDA with kernels for Blackwell cards (sm_100, sm_120)."""
_BLACKWELL = re.compile(r"RTX 50[5-9]0|Blackwell|\bG?B[23]00\b")
_BLACKWELL_PCI = frozenset({0x29, 0x2B, 0x2C, 0x2D, 0x2F, 0x31})
"""First byte of the PCI device ids of Blackwell chips (GB100, GB202, GB203, GB206, GB205, GB110)."""
_REASONS = (
    (0x001, "gpu_idle"),
    (0x002, "applications_clocks_setting"),
    (0x004, "sw_power_cap"),
    (0x008, "hw_slowdown"),
    (0x010, "sync_boost"),
    (0x020, "sw_thermal_slowdown"),
    (0x040, "hw_thermal_slowdown"),
    (0x080, "hw_power_brake_slowdown"),
    (0x100, "display_clock_setting"),
    (0x200, "board_limit"),
    (0x400, "reliability"),
)
"""Bit of nvmlClocksEventReasons (nvml.h, CUDA 13) -> its name as `nvidia-smi -q -d PERFORMANCE` has it."""
XIDS = {
    13: "graphics engine exception (the program)",
    31: "memory page fault (the program)",
    43: "GPU stopped processing (the program)",
    45: "preemptive clean-up (the program was ended)",
    48: "double bit ECC error",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    63: "row remapping recorded",
    64: "row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high rate of single bit ECC errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP does not answer",
    120: "GSP error",
    140: "unrecovered ECC error",
    143: "GPU initialization failed",
    154: "recovery action changed",
}
"""Common Xid -> its meaning (docs.nvidia.com/deploy/xid-errors)."""
XIDS_OF_PROGRAMS = frozenset({13, 31, 43, 45, 63})
"""Xids caused by a program's bug or end, or purely informational: the GPU is not the cause."""


def is_blackwell(name: str) -> bool:
    """Whether a GPU with this name (NVML's, nvidia-smi's) is of the Blackwell generation: RTX 50, RTX PRO, B200."""
    return _BLACKWELL.search(name) is not None


def is_blackwell_device(pci_device: int) -> bool:
    """The same by its PCI device id: NVIDIA's closed kernel modules do not know these cards, the open ones do."""
    return pci_device >> 8 in _BLACKWELL_PCI


def name_reasons(bits: int) -> tuple[str, ...]:
    """The names of clock event reasons; unknown bits as one number."""
    known = tuple(name for bit, name in _REASONS if bits & bit)
    rest = bits & ~sum(bit for bit, _ in _REASONS)
    return (*known, f"unknown_{rest:#x}") if rest else known
