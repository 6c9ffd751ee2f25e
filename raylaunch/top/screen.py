"""The screen of `raylaunch top`: fits a terminal of 80 x 24 with 16 GPUs, and shows more in a wide one."""

from collections.abc import Sequence

from rich.text import Text

from raylaunch.top.cells import (
    describe_engine,
    describe_incident,
    describe_network,
    describe_service,
    gib,
    integer,
    list_others,
    list_reasons,
    list_xids,
    percent,
    span,
)
from raylaunch.top.view import GpuView, NodeView, View

WIDE = 110
"""Columns from which on names are written out."""
_REAL_HEAD = "GPU rank   use  memory GiB power W temp  fan SM/mem MHz + others, slowed by"
_LOGICAL_HEAD = "GPU rank    CPU       memory"
_FOOT = "Ctrl-C leaves; the service goes on"


def render(view: View, width: int, height: int | None) -> list[Text]:
    """The lines of the screen.

    Args:
        height: lines that there are; None: as many as it takes (`--once`).
    """
    top = _render_top(view, width)
    body = _render_nodes(view.nodes, width)
    if height is not None and len(top) + len(body) > height:
        body = _render_nodes_densely(view.nodes, width)
    lines = top + body
    if height is not None:
        if len(lines) > height:
            left_out = len(lines) - height + 1
            lines = [*lines[: height - 1], Text(f"{left_out} more lines: a taller terminal, or --once", style="dim")]
        elif len(lines) < height:
            lines.append(Text(_FOOT, style="dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


def _render_top(view: View, width: int) -> list[Text]:
    lines = []
    if view.service is not None:
        lines.append(describe_service(view.service, width))
        if view.service.note and view.service.state != "ready":
            lines.append(Text(view.service.note, style="yellow"))
        if view.service.degraded:
            lines.append(Text(f"degraded: {view.service.degraded}", style="yellow"))
        lines.append(describe_engine(view.engine, view.rates, width))
        if view.service.incident:
            lines.append(describe_incident(view.service))
        if view.service.warnings:
            lines.append(Text("; ".join(view.service.warnings), style="yellow"))
    if view.note:
        lines.append(Text(view.note, style="yellow"))
    return lines


def _render_nodes(nodes: Sequence[NodeView], width: int) -> list[Text]:
    lines: list[Text] = []
    headed = ""
    for node in nodes:
        lines.append(_render_node(node, width))
        if node.host is not None and not node.gpus:
            lines.append(Text(f"    no GPUs: {node.nvml_error or 'NVML counts none'}", style="dim"))
        for gpu in node.gpus:
            head = _REAL_HEAD if gpu.sample is not None else f"{_LOGICAL_HEAD}    {node.logical}"
            if head != headed:
                lines.append(Text(head, style="dim"))
                headed = head
            lines.append(_render_gpu(gpu, width) if gpu.sample is not None else _render_logical(gpu))
    return lines


def _render_node(node: NodeView, width: int) -> Text:
    line = Text(node.ip, style="bold")
    if width >= WIDE and node.hostname:
        line.append(f" ({node.hostname})", style="not bold")
    if node.host is None:
        return line.append(f"  {node.silent}", style="bold red")
    host = node.host
    ram = f"{gib(host.ram_used_bytes, 0)}/{gib(host.ram_total_bytes, 0)}"
    network = describe_network(host, every=width >= WIDE)
    return line.append(f"  CPU {percent(host.cpu_percent)} of {host.cores}  RAM {ram} GiB  {network}", style="not bold")


def _render_gpu(gpu: GpuView, width: int) -> Text:
    sample = gpu.sample
    assert sample is not None
    line = Text(f"{gpu.index:>3} {span(gpu.ranks):<5}")
    if sample.fault is not None:
        fault = f"{sample.fault}: {sample.error}" + "".join(f"; {xid}" for xid in list_xids(sample, long=True))
        return line.append(f" {fault}", style="bold red")
    memory = f"{gib(sample.memory_used_bytes)}/{gib(sample.memory_total_bytes)}"
    power = f"{integer(sample.power_w)}/{integer(sample.power_cap_w)}"
    clocks = f"{integer(sample.sm_clock_mhz)}/{integer(sample.memory_clock_mhz)}"
    line.append(f" {percent(sample.use_percent)} {memory:>11} {power:>7}")
    line.append(f" {integer(sample.temperature_c, 'C'):>4}", style="yellow" if _is_hot(gpu) else "")
    line.append(f" {percent(sample.fan_percent)} {clocks:>10}")
    long = width >= WIDE
    line.append("".join(f" {xid}" for xid in list_xids(sample, long=long)), style="bold red")
    others = Text(list_others(gpu.others, long=long), style="magenta")
    reasons = Text("".join(f" {reason}" for reason in list_reasons(sample, long=long)), style="yellow")
    # What comes last is cut where there is little room: rather the reasons than the strangers.
    return line.append(reasons).append(others) if long else line.append(others).append(reasons)


def _is_hot(gpu: GpuView) -> bool:
    return gpu.sample is not None and any("thermal" in reason for reason in gpu.sample.throttles)


def _render_logical(gpu: GpuView) -> Text:
    line = Text(f"{gpu.index:>3} {span(gpu.ranks):<5}")
    if gpu.worker is None:
        return line.append("  its worker is not there (yet)", style="dim")
    return line.append(f" {percent(gpu.worker.cpu_percent, 5)} {gib(gpu.worker.rss_bytes, 2):>8} GiB")


def _render_nodes_densely(nodes: Sequence[NodeView], width: int) -> list[Text]:
    """As many GPUs in a line as fit, the first ones behind their node: for many nodes, or a low terminal."""
    lines: list[Text] = []
    for node in nodes:
        line = Text(f"{node.ip:<12}", style="bold")
        if node.host is None:
            lines.append(line.append(f" {node.silent}", style="bold red"))
            continue
        host = node.host
        used = 100 * host.ram_used_bytes / host.ram_total_bytes
        network = describe_network(host, every=False, short=True)
        line.append(f" CPU{percent(host.cpu_percent, 5)} RAM{percent(used, 5)} {network:<13}", style="not bold")
        cells = [_render_cell(gpu) for gpu in node.gpus]
        for cell in cells:
            if len(line) + len(cell) + 1 > width:
                lines.append(line)
                line = Text()
            line.append(" ").append(cell)
        lines.append(line)
    return lines


def _render_cell(gpu: GpuView) -> Text:
    cell = Text(f"{gpu.index:>2} {span(gpu.ranks):<5}")
    sample = gpu.sample
    if sample is None:
        if gpu.worker is None:
            return cell.append(f"{'-':>12}")
        return cell.append(f"{percent(gpu.worker.cpu_percent)} {gib(gpu.worker.rss_bytes):>6}G")
    if sample.fault is not None:
        return cell.append(f"{sample.fault:<20}", style="bold red")
    cell.append(f"{percent(sample.use_percent)} {gib(sample.memory_used_bytes, 0):>3}G {integer(sample.power_w):>4}W")
    cell.append(f" {integer(sample.temperature_c, 'C'):>4}", style="yellow" if _is_hot(gpu) else "")
    cell.append("!" if sample.throttles else " ", style="bold yellow")
    cell.append("X" if sample.xids else " ", style="bold red")
    cell.append(f"+{len(gpu.others)}" if gpu.others else "", style="magenta")
    return cell
