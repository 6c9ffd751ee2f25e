"""The text of each cell of the screen; unknown figures have a sign of their own."""

from collections.abc import Sequence

from rich.text import Text

from raylaunch.base.text import describe_age, describe_span
from raylaunch.engine.metrics import EngineFigures, EngineRates
from raylaunch.node.gpu_sample import GpuSample
from raylaunch.node.host_sample import HostSample, InterfaceSample
from raylaunch.node.nvml import GpuProcess
from raylaunch.top.view import ServiceView

NOTHING = "-"
"""A figure that is unknown."""
_SHORT = {
    "sw_power_cap": "power-cap",
    "hw_slowdown": "hw-slow",
    "sw_thermal_slowdown": "hot(sw)",
    "hw_thermal_slowdown": "hot(hw)",
    "hw_power_brake_slowdown": "pwr-brake",
    "board_limit": "board-limit",
}
_STYLES = {"ready": "bold green", "stopping": "yellow", "draining": "yellow"}
_MOST_INTERFACES = 3


def percent(value: float | None, width: int = 4) -> str:
    """ " 97%", right-aligned."""
    return f"{NOTHING if value is None else f'{value:.0f}%':>{width}}"


def integer(value: float | None, unit: str = "") -> str:
    """A figure without decimals."""
    return NOTHING if value is None else f"{value:.0f}{unit}"


def gib(value: int | None, decimals: int = 1) -> str:
    """Bytes in GiB; no decimals from 1,000 on."""
    if value is None:
        return NOTHING
    size = value / (1 << 30)
    return f"{size:.0f}" if size >= 1000 else f"{size:.{decimals}f}"


def span(numbers: Sequence[int]) -> str:
    """Ranks as "r3", "r0-15", "r0,4", or "" for a GPU without ranks."""
    return f"r{describe_span(numbers)}" if numbers else ""


def describe_service(service: ServiceView, width: int) -> Text:
    """Model, state and since when; the model's name is what gives way."""
    rest = f" {service.url}  "
    state = f"{service.state} for {describe_age(service.since)}"
    restarts = f"  {service.restarts} restart{'s' if service.restarts > 1 else ''}" if service.restarts else ""
    room = max(12, width - len(rest) - len(state) - len(restarts))
    model = service.model if len(service.model) <= room else "..." + service.model[-(room - 3) :]
    line = Text(model, style="bold").append(rest, style="not bold")
    line.append(state, style=_STYLES.get(service.state, "bold yellow"))
    return line.append(restarts, style="yellow")


def describe_engine(figures: EngineFigures | None, rates: EngineRates | None, width: int) -> Text:
    """Requests, cache and speed; shorter words where figures are long."""
    if figures is None:
        return Text("no engine answers", style="dim")
    rest = f"  KV {figures.kv_cache_use:.0%}"
    if rates is not None:
        prefix = NOTHING if rates.prefix_hits is None else f"{rates.prefix_hits:.0%}"
        rest += f"  tok/s in {_count(rates.tokens_in_per_s)} out {_count(rates.tokens_out_per_s)}"
        rest += f"  TTFT {_seconds(rates.ttft_s)}  prefix {prefix}"
    requests = f"running {figures.running}, waiting {figures.waiting}"
    if len(requests) + len(rest) > width:
        requests = f"run {figures.running} wait {figures.waiting}"
    return Text(requests + rest)


def describe_incident(service: ServiceView) -> Text:
    """The last incident: how long ago, what, and how it ended."""
    ago = f" {describe_age(service.incident_at)} ago" if service.incident_at else ""
    ended = f" ({service.incident_outcome})" if service.incident_outcome else ""
    return Text(f"last incident{ago}{ended}: {service.incident}", style="yellow")


def describe_network(host: HostSample, *, every: bool, short: bool = False) -> str:
    """The traffic of the node's own interface, or of all that carry any."""
    own = sorted(host.interfaces, key=lambda interface: (not interface.is_nodes, -_traffic(interface)))
    if not own:
        return "no network"
    if short:
        return f"{_bits(own[0].in_bytes_per_s)}/{_bits(own[0].out_bytes_per_s)}"
    shown = [own[0], *(one for one in own[1:] if every and _traffic(one) > 0)][:_MOST_INTERFACES]
    return "  ".join(
        (f"{one.name} " if every else "")
        + f"in {_bits(one.in_bytes_per_s)} out {_bits(one.out_bytes_per_s)}"
        + (f" of {one.speed_mbit_s / 1000:g}G" if one.speed_mbit_s and every else "")
        + " bit/s"
        for one in shown
    )


def list_reasons(sample: GpuSample, *, long: bool) -> list[str]:
    """Why it is slowed down."""
    return [reason if long else _SHORT.get(reason, reason) for reason in sample.throttles]


def list_xids(sample: GpuSample, *, long: bool) -> list[str]:
    """Errors that the driver reported for it; the last one where space is short."""
    xids = [f"Xid {event.xid}{f' {event.meaning}' if long and event.meaning else ''}" for event in sample.xids]
    return xids if long else xids[-1:]


def list_others(others: Sequence[GpuProcess], *, long: bool) -> str:
    """Strangers on a GPU: how many, and what they hold."""
    if not others:
        return ""
    if long:
        return "  others: " + ", ".join(
            f"{one.name or '(outside this container)'} {one.pid}"
            + (f" {gib(one.used_bytes)} GiB" if one.used_bytes is not None else "")
            for one in others
        )
    held = [one.used_bytes for one in others if one.used_bytes is not None]
    return f" +{len(others)}{f' {gib(sum(held))}G' if held else ''}"


def _traffic(interface: InterfaceSample) -> float:
    return (interface.in_bytes_per_s or 0.0) + (interface.out_bytes_per_s or 0.0)


def _bits(bytes_per_s: float | None) -> str:
    if bytes_per_s is None:
        return NOTHING
    bits = bytes_per_s * 8
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if bits >= size:
            return f"{bits / size:.1f}{unit}"
    return f"{bits:.0f}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
