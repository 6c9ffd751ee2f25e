"""Names that users write in a launch file and that vLLM never had: those of other servers, of requests, of uvicorn."""

MEANT = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "context_length": "max_model_len",
    "max_seq_len": "max_model_len",
    "max_length": "max_model_len",
    "max_context_len_to_capture": "max_cudagraph_capture_size",
    "gpu_mem_util": "gpu_memory_utilization",
    "mem_fraction_static": "gpu_memory_utilization",
    "gpus": "gpus_per_node",
    "guided_decoding": "structured_outputs_config",
    "guided_decoding_config": "structured_outputs_config",
    "mm_cache_preprocessor": "mm_processor_cache_gb",
    "cors": "allowed_origins",
    "cors_origins": "allowed_origins",
    "cors_allow_origins": "allowed_origins",
    "cors_allowed_origins": "allowed_origins",
    "enable_cors": "allowed_origins",
    "address": "host",
    "bind": "host",
    "listen": "host",
    "workers": "api_server_count",
    "num_workers": "api_server_count",
    "ssl_key": "ssl_keyfile",
    "tls_key": "ssl_keyfile",
    "ssl_cert": "ssl_certfile",
    "tls_cert": "ssl_certfile",
    "ssl_ca": "ssl_ca_certs",
    "ssl_ca_file": "ssl_ca_certs",
    "ca_certs": "ssl_ca_certs",
    "chat_template_path": "chat_template",
}
"""Name -> the key with the same sense."""
_REQUESTS = (
    "each request sets it; what holds for requests without it is engine.override_generation_config: {temperature: 0.6}"
)
_ACCESS_LOG = "the access log is on; server.disable_uvicorn_access_log: true turns it off"
_TLS = "TLS is on where server.ssl_certfile and ssl_keyfile are set; ssl_cert_reqs: 2 requires a certificate of clients"
EXPLAINED = (
    dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "max_tokens", "repetition_penalty"), _REQUESTS)
    | dict.fromkeys(
        ("best_of", "use_beam_search", "n", "stop", "logprobs"), "each request sets it; vLLM has no default"
    )
    | dict.fromkeys(("uvicorn_access_log", "access_log", "enable_access_log"), _ACCESS_LOG)
    | dict.fromkeys(("https", "tls", "ssl", "enable_https", "ssl_verify", "ssl_verify_client"), _TLS)
    | {
        "timeout_keep_alive": "set VLLM_HTTP_TIMEOUT_KEEP_ALIVE=5 in the environment instead",
        "headless": "raylaunch starts the processes on all nodes: leave it out",
        "use_v1": "vLLM has one engine since 0.11: leave it out",
        "v1": "vLLM has one engine since 0.11: leave it out",
    }
)
"""Name -> what to do, where no key has the same sense."""
