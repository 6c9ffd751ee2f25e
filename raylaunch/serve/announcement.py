"""What `serve` prints when an engine is ready: start-up times, URL, and how to try it."""

from raylaunch.base import console
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import readiness
from raylaunch.serve.service_record import Service


def announce(service: Service, resolved: ResolvedLaunch, times: readiness.StartupTimes, *, again: bool) -> None:
    """Print that the service is ready.

    Args:
        again: an engine of this service has been ready before: two lines are enough.
    """
    launch = resolved.launch
    model, url = launch.served_model_names[0], service.url
    console.say(times.to_line())
    if again:
        console.say(f"serving {model} again at {url}/v1", style="bold green")
        return
    assert service.engine is not None
    console.say(readiness.describe_kv_cache(service.engine))
    console.say(f"serving {model} at {url}/v1", style="bold green")
    if resolved.is_rehearsal:
        proved, not_proved = plan.describe_proof(resolved)
        console.say("this rehearsal proved: " + "; ".join(proved))
        console.say("it did not prove: " + "; ".join(not_proved))
    console.say("try it:")
    console.say("  " + readiness.make_curl(url, model, needs_key=bool(launch.api_keys)))
    console.say("Ctrl-C or `raylaunch stop` ends it")
