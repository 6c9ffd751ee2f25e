"""What is known to help against errors of a start-up, and plainer words for the ones that mislead."""

import re
from collections.abc import Sequence

_REWORDED = (
    (
        r"HFValidationError",
        r"Repo id must be .*: '(?P<path>/[^']*)'",
        "the model folder {path} is not there (vLLM then took it for a Hugging Face name)",
    ),
    (
        r"ValidationError",
        r"Invalid repository ID or local directory specified: '(?P<path>[^']*)'",
        "{path} holds no config.json that vLLM could read",
    ),
    (
        r"SafetensorError",
        r"(?P<text>Error while deserializing header: .*(incomplete metadata|invalid header|header too).*)",
        "a weight file is cut short or damaged ({text})",
    ),
    (
        r"ValueError",
        r"Couldn't instantiate the backend tokenizer",
        "the model folder holds no tokenizer that can be read (tokenizer.json or tokenizer.model)",
    ),
    (
        r"AttributeError",
        r"'_OpNamespace' '_C\w*' object has no attribute '(?P<name>\w+)'",
        "vLLM's compiled kernels could not be loaded ({name} is not there)",
    ),
)
"""Type, message, and what to say instead; named groups of the message may be used."""
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
        "end what else uses that memory (`nvidia-smi`, on CPU `free -g`), or lower engine.gpu_memory_utilization; on "
        "CPU set engine.kv_cache_memory_bytes",
    ),
    (
        r"Error in memory profiling",
        "another process freed GPU memory meanwhile: let the last service end first (`nvidia-smi`), then start again",
    ),
    (
        r"CUDA out of memory|HIP out of memory|OutOfMemoryError: CUDA",
        "lower engine.gpu_memory_utilization, engine.max_num_seqs or engine.max_num_batched_tokens; spread the model "
        "over more GPUs; look with `nvidia-smi` whether somebody else holds memory",
    ),
    (
        r"(?i)CUDA driver version is insufficient|driver .* is too old|system has unsupported display driver|"
        r"forward compatibility was attempted|Error 80[34]\b|unsupported toolchain",
        "update the NVIDIA driver on that node (CUDA 13 needs 580 or newer, CUDA 12 needs 525), or use a vLLM built "
        "for an older CUDA (0.19 and older images carry CUDA 12)",
    ),
    (
        r"No CUDA GPUs are available|no CUDA-capable device|CUDA unknown error|No NVIDIA GPU",
        "`nvidia-smi` must answer on that node; start its container with --gpus all; restart it where it lost its GPUs",
    ),
    (
        r"compiled kernels could not be loaded",
        "the log says why after 'Failed to import from vllm._C'; for CPU on Debian and Ubuntu: "
        "sudo apt-get install -y libnuma1",
    ),
    (
        r"No module named '(?!vllm|raylaunch)",
        "vLLM's own packages are not all installed: `pip check` names them, `pip install` of the same vLLM mends it",
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
        r"the model folder .* is not there|holds no config\.json|Cannot find any model weights|"
        r"No such file or directory: '[^']*\.safetensors",
        "correct model.path, or fetch the model on every node: hf download REPO --local-dir PATH",
    ),
    (
        r"cut short or damaged|SafetensorError|not a valid JSON file|JSONDecodeError",
        "fetch the file again on that node (hf download REPO --local-dir PATH), or rsync the folder from a node that "
        "has it whole",
    ),
    (
        r"weights were not initialized from checkpoint|exceeds dimension size|size mismatch|"
        r"param_data\.shape == loaded_weight\.shape|loaded_weight\.narrow",
        "config.json and the weights do not belong together: fetch the whole folder again from one revision "
        "(hf download REPO --local-dir PATH)",
    ),
    (
        r"holds no tokenizer",
        "fetch the tokenizer files (hf download REPO --local-dir PATH), or name another folder in engine.tokenizer",
    ),
    (
        r"does not recognize this architecture|Model architectures .* are not supported|"
        r"has no vLLM implementation|failed to be inspected",
        "this vLLM does not know the model: take a newer one of the supported versions, or another model",
    ),
    (
        r"Cannot find the config file for \w+|quantization (method|config)",
        "engine.quantization does not fit these weights: leave it out, vLLM finds it by itself",
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
        r"ran low on host memory|often the kernel, out of memory",
        "look on that node with `dmesg -T | grep -i oom` and `free -g`; free memory or raise the container's limit. "
        "If somebody ended it, start again",
    ),
    (
        r"lost with its node|does not answer any more|Ray node \(raylet\)",
        "`ray status` shows which node is missing; look at its power, network and Ray's logs, and start Ray there "
        "again",
    ),
    (
        r"process crashed",
        "the lines above the crash in the log name the library; `dmesg -T` on that node tells more",
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
"""What is looked for in type, message and excerpt, and what to do; the first that fits is taken."""


def reword(exception: str, message: str) -> str:
    """Plainer words for a message that misleads; "" where it says enough."""
    for kind, pattern, instead in _REWORDED:
        if exception == kind and (found := re.search(pattern, message)):
            return instead.format(**found.groupdict())
    return ""


def find_remedy(exception: str, message: str, excerpt: Sequence[str]) -> str:
    """What to do about an error; "" where nothing is known.

    The message is asked first, so that a word in a line of the traceback cannot win over it.
    """
    for text in (f"{exception}: {message}", "\n".join(excerpt)):
        for pattern, remedy in _REMEDIES:
            if re.search(pattern, text):
                return remedy
    return ""
