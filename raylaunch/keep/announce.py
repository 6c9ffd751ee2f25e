"""What `serve` prints when an engine is ready: where, since when, and what a user does next."""

from typing import TYPE_CHECKING

from raylaunch import output, readiness
from raylaunch.keep.attempt import Attempt
from raylaunch.rehearsal import plan

if TYPE_CHECKING:
    from raylaunch.supervisor import Supervisor


def announce(supervisor: "Supervisor", attempt: Attempt, times: readiness.StartupTimes) -> None:
    """Tell that the service is ready; the second time in a line or two."""
    launch, service = attempt.served, supervisor.board.service
    model, url = launch.served_model_names[0], service.url
    output.say(times.to_line())
    if supervisor.was_ready:
        output.say(f"serving {model} again at {url}/v1", style="bold green")
        return
    output.say(readiness.describe_kv_cache(service.facts))
    output.say(f"serving {model} at {url}/v1", style="bold green")
    if supervisor.rehearse and supervisor.starts.standin:
        assert attempt.driver is not None
        real_shape = bool(attempt.driver.events["placed"]["real_shape"])
        proved, not_proved = plan.describe_proof(launch, supervisor.starts.standin, real_shape=real_shape)
        output.say("this rehearsal proved: " + "; ".join(proved))
        output.say("it did not prove: " + "; ".join(not_proved))
    output.say("try it:")
    output.say("  " + readiness.make_curl(url, model, needs_key=bool(launch.api_keys)))
    output.say("Ctrl-C or `raylaunch stop` ends it")
