"""What `serve` prints when an engine is ready: start-up times, URL, and how to try it."""

import shlex

from raylaunch.base import console
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.plan import history
from raylaunch.plan.history import Forecast
from raylaunch.serve import readiness
from raylaunch.serve.service_record import Service


def announce(
    service: Service,
    resolved: ResolvedLaunch,
    times: readiness.StartupTimes,
    forecast: Forecast | None = None,
    *,
    again: bool,
    too: bool = False,
) -> None:
    """Print that the service is ready.

    Args:
        forecast: of the KV cache; what vLLM took is kept for the next one.
        again: this replica has been ready before: two lines are enough.
        too: another replica has been.
    """
    launch = resolved.launch
    model, url = launch.served_model_names[0], service.shown_url
    console.say(times.to_line())
    if forecast is not None and service.engine is not None:
        history.remember(forecast, service.engine.kv_cache_tokens)
    if again:
        console.say(f"serving {model} again at {url}/v1", style="bold green")
        return
    if too:
        console.say(f"serving {model} at {url}/v1, too", style="bold green")
        return
    assert service.engine is not None
    if service.engine.task == "generate" or service.engine.kv_cache_tokens >= service.engine.max_model_len:
        console.say(readiness.describe_kv_cache(service.engine, forecast))  # encoders have none
    console.say(f"serving {model} at {url}/v1", style="bold green", named=False)
    if resolved.is_rehearsal:
        proved, not_proved = plan.describe_proof(resolved)
        console.say("this rehearsal proved: " + "; ".join(proved), named=False)
        console.say("it did not prove: " + "; ".join(not_proved), named=False)
    for line in list_next_steps(launch, url, Viewpoint.of_this_process(), task=service.engine.task):
        console.say(line, named=False)


def list_next_steps(launch: LaunchConfig, url: str, view: Viewpoint, *, task: str = "generate") -> list[str]:
    """How to try the service and how to end it; each command works where the reader is."""
    key = "$RAYLAUNCH_SERVER__API_KEY" if launch.api_keys else ""
    if view.key_file:
        key = f"$(cat {shlex.quote(view.key_file)})"
    curl = readiness.make_curl(url, launch.served_model_names[0], key=key, client_cert=launch.client_cert, task=task)
    if not view.is_remote:
        return ["try it:", f"  {curl}", f"Ctrl-C or `{view.command('stop')}` ends it"]
    ask = view.command("ask", "Who are you?", f"--port={launch.port}")
    stop = view.command("stop", f"--port={launch.port}")
    return ["try it:", f"  {ask}", f"  {curl}", f"Ctrl-C leaves it running; `{stop}` ends it"]
