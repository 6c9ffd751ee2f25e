"""All layouts of a model on a fleet, the best first."""

from collections.abc import Callable

from raylaunch.plan.layout import Layout, Planner

_MOST_REPLICAS = 64


def list_layouts(planner: Planner, recall: Callable[[Layout], Layout] = lambda layout: layout) -> list[Layout]:
    """Every TP x PP x replicas that uses all GPUs with a TP group inside a machine, and the launch's own.

    The order: what surely fits, then what may, then what does not. Within each, by estimated requests per second
    (wire.estimate_rate).

    Args:
        recall: narrows a forecast by what earlier starts took (history.recall).
    """
    fleet, named = planner.fleet, planner.settings.named
    inside = min(machine.gpus for machine in fleet.machines)
    sizes = [tp for tp in range(1, inside + 1) if inside % tp == 0]
    found: list[Layout] = []
    if named is not None:
        found.append(planner.plan(*named, is_named=True))
    for tp in sizes:
        groups = fleet.gpus // tp
        for replicas in range(1, min(groups, _MOST_REPLICAS) + 1):
            if groups % replicas == 0 and (named != (tp, groups // replicas) or replicas > 1):
                found.append(planner.plan(tp, groups // replicas, replicas))
    return sorted(map(recall, found), key=lambda layout: (not layout.surely_fits, not layout.fits, -layout.rate))


def explain_first(layouts: list[Layout]) -> str:
    """In one line, why the first is first."""
    first = layouts[0]
    if not first.fits:
        return "nothing fits: more or larger GPUs, fp8 weights or a smaller model are needed"
    second = next((layout for layout in layouts[1:] if layout.fits), None)
    form = ",.0f" if first.requests.high >= 10 else ".1f"
    low, high = (f"{count:{form}}" for count in (first.requests.low, first.requests.high))
    held = low if low == high else f"{low} to {high}"
    holds = f"{_name(first)} is first: {held} requests of {first.context:,} tokens at once"
    if second is None:
        return f"{holds}; no other layout fits"
    if not second.surely_fits and first.surely_fits:
        return f"{holds}; no other layout surely fits"
    more = first.rate / second.rate - 1
    why = f"about {more:.0%} more requests a second" if more >= 0.01 else "as many requests a second"
    return f"{holds}, {why} than {_name(second)}"


def _name(layout: Layout) -> str:
    return f"TP={layout.tp} x PP={layout.pp}" + (f" x {layout.replicas} replicas" if layout.replicas > 1 else "")
