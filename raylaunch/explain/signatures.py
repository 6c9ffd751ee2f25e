"""Known errors of a start-up: plainer texts for misleading ones, and what to do."""

import re
from collections.abc import Sequence

from raylaunch.node.nvidia_codes import CUDA_12_IMAGES, OLDEST_DRIVER

KILLED = (
    "check on that node with `dmesg -T | grep -i oom` and `free -g`; free memory or raise the container's limit. If it "
    "was stopped by hand, start again"
)
NODE_LOST = (
    "`ray status` shows which node is missing; check its power, network and Ray's logs, and start Ray there again"
)
CRASHED = "the lines above the crash in the log name the library; `dmesg -T` on that node has more"
_FETCH_MODEL = "correct model.path, or fetch the model on every node: hf download REPO --local-dir PATH"
_FETCH_FILE = (
    "fetch the file again on that node (hf download REPO --local-dir PATH), or rsync the folder from a node where it "
    "is complete"
)
_FETCH_TOKENIZER = (
    "fetch the tokenizer files (hf download REPO --local-dir PATH), or name another folder in engine.tokenizer"
)
_REWORDED = (
    (
        r"HFValidationError",
        r"Repo id must be .*: '(?P<path>/[^']*)'",
        "the model folder {path} does not exist (vLLM then took it for a Hugging Face name)",
        _FETCH_MODEL,
    ),
    (
        r"ValidationError",
        r"Invalid repository ID or local directory specified: '(?P<path>[^']*)'",
        "{path} has no config.json that vLLM could read",
        _FETCH_MODEL,
    ),
    (
        r"SafetensorError",
        r"(?P<text>Error while deserializing header: .*(incomplete metadata|invalid header|header too).*)",
        "a weight file is cut short or damaged ({text})",
        _FETCH_FILE,
    ),
    (
        r"ValueError",
        r"Couldn't instantiate the backend tokenizer",
        "the model folder has no tokenizer that can be read (tokenizer.json or tokenizer.model)",
        _FETCH_TOKENIZER,
    ),
    (
        r"AttributeError",
        r"'_OpNamespace' '_C\w*' object has no attribute '(?P<name>\w+)'",
        "vLLM's compiled kernels could not be loaded ({name} is missing)",
        "the log has the reason after 'Failed to import from vllm._C'; for CPU on Debian and Ubuntu: "
        "sudo apt-get install -y libnuma1",
    ),
)
"""Type, message, plainer text (with named groups of the message), and what to do."""

_REMEDIES = (
    (
        r"larger than the available KV cache memory|max seq len .* KV cache is needed",
        "lower engine.max_model_len, or raise engine.gpu_memory_utilization (or engine.kv_cache_memory_bytes, where "
        "that is set)",
    ),
    (
        r"No available memory for the cache blocks",
        "raise engine.gpu_memory_utilization, lower engine.max_num_batched_tokens or engine.max_model_len, or spread "
        "the model over more GPUs (engine.pipeline_parallel_size)",
    ),
    (
        r"(Free|Available) memory on (device|node) .* is less than",
        "stop what else uses that memory (`nvidia-smi`, on CPU `free -g`), or lower engine.gpu_memory_utilization; on "
        "CPU set engine.kv_cache_memory_bytes",
    ),
    (
        r"Error in memory profiling",
        "another process freed GPU memory meanwhile: wait for the last service to end (`nvidia-smi`), then start again",
    ),
    (
        r"CUDA out of memory|HIP out of memory|OutOfMemoryError: CUDA",
        "lower engine.gpu_memory_utilization, engine.max_num_seqs or engine.max_num_batched_tokens; spread the model "
        "over more GPUs; `nvidia-smi` shows whether other processes hold memory",
    ),
    (
        r"(?i)CUDA driver version is insufficient|driver .* is too old|system has unsupported display driver|"
        r"forward compatibility was attempted|Error 80[34]\b|unsupported toolchain",
        f"update the NVIDIA driver on that node (CUDA 13 needs {OLDEST_DRIVER[13]} or newer, CUDA 12 needs "
        f"{OLDEST_DRIVER[12]}), or use a vLLM built for an older CUDA ({CUDA_12_IMAGES})",
    ),
    (
        r"No CUDA GPUs are available|no CUDA-capable device|CUDA unknown error|No NVIDIA GPU",
        "`nvidia-smi` must answer on that node; start its container with --gpus all; restart it where it lost its GPUs",
    ),
    (
        r"No module named '(?!vllm|raylaunch)",
        "packages that vLLM needs are missing: `pip check` names them, `pip install` of the same vLLM installs them",
    ),
    (
        r"(?i)Unable to find address for|no socket interface found|Bootstrap : no socket|connectFullMesh|"
        r"gloo.*(refused|timed out)",
        "name each node's own network interface: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in the environment before "
        "Ray starts there (`ip -br addr` lists them)",
    ),
    (
        r"(?i)error while creating shared memory|No space left on device.*(shm|shared)|/dev/shm",
        "give the container more shared memory: --shm-size 10.24g",
    ),
    (
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclInvalidUsage",
        "start again with NCCL_DEBUG=INFO to see which link failed; NCCL_SOCKET_IFNAME must name the interface between "
        "the nodes; on RTX 4090 set NCCL_P2P_DISABLE=1 and engine.disable_custom_all_reduce=true",
    ),
    (
        r"greater than the derived max_model_len",
        "lower engine.max_model_len to what the model was made for",
    ),
    (
        r"Cannot find any model weights|No such file or directory: '[^']*\.safetensors",
        _FETCH_MODEL,
    ),
    (
        r"SafetensorError|not a valid JSON file|JSONDecodeError",
        _FETCH_FILE,
    ),
    (
        r"weights were not initialized from checkpoint|exceeds dimension size|size mismatch|"
        r"param_data\.shape == loaded_weight\.shape|loaded_weight\.narrow",
        "config.json and the weights do not belong together: fetch all files again from one revision "
        "(hf download REPO --local-dir PATH)",
    ),
    (
        r"does not recognize this architecture|Model architectures .* are not supported|"
        r"has no vLLM implementation|failed to be inspected",
        "this vLLM does not know the model: use a newer one of the supported versions, or another model",
    ),
    (
        r"Cannot find the config file for \w+|quantization (method|config)",
        "engine.quantization does not fit these weights: remove it, vLLM detects it",
    ),
    (
        r"divisible by|not a multiple of the number of attention heads",
        "choose an engine.tensor_parallel_size that divides the model's heads; a config.json that contradicts itself "
        "has to be fetched again",
    ),
    (
        r"float16'?, 'bfloat16|dtype",
        "engine.dtype takes auto, half, float16, bfloat16, float or float32",
    ),
    (
        r"Address already in use|EADDRINUSE",
        "another process has that port: `ss -ltnp` names it",
    ),
    (
        r"(Connection|Socket).*(refused|reset|closed|timed? ?out|Timeout)|Timed out after",
        "a node could not reach another: check firewalls between them (all ports must be open), VLLM_HOST_IP, "
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
    ),
    (
        r"Too many open files",
        "raise the limit before Ray starts: ulimit -n 65536, in a container --ulimit nofile=1048576:1048576",
    ),
    (
        r"trust_remote_code",
        "if you trust the model's own code: --set engine.trust_remote_code=true",
    ),
)
"""Pattern in type, message or excerpt, and what to do; the first match wins."""


def reword(exception: str, message: str) -> tuple[str, str] | None:
    """A plainer text for a misleading message, and what to do; None for other messages."""
    for kind, pattern, text, fix in _REWORDED:
        if exception == kind and (found := re.search(pattern, message)):
            return text.format(**found.groupdict()), fix
    return None


def find_remedy(exception: str, message: str, excerpt: Sequence[str]) -> str:
    """What to do about an error; "" where no remedy is known. The message is matched before the excerpt."""
    for text in (f"{exception}: {message}", "\n".join(excerpt)):
        for pattern, remedy in _REMEDIES:
            if re.search(pattern, text):
                return remedy
    return ""
