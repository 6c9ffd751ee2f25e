"""bench; bench_results.py has what is done with its results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raylaunch.cli import values
from raylaunch.cli.bench_results import compare, draw, draw_report
from raylaunch.cli.options import CLUSTER, JSON, LAUNCH, PORT, load_launch, make_tls, tls_options

if TYPE_CHECKING:
    from raylaunch.bench.load import LoadTest


@dataclass(frozen=True)
class BenchOptions:
    """The options of `raylaunch bench`; their defaults stand at the options themselves."""

    launch: Path | None
    url: str | None
    model: str | None
    port: int | None
    insecure: bool
    cacert: Path | None
    cert: Path | None
    key: Path | None
    concurrency: tuple[int, ...] | None
    rate: tuple[float, ...] | None
    requests: int | None
    duration: float | None
    questions: Path | None
    input_tokens: int | None
    output_tokens: int | None
    max_tokens: int
    api: str | None
    no_stream: bool
    temperature: float | None
    warmup: int
    slo: dict[str, float] | None
    shards: str
    timeout: float
    seed: int
    output: Path | None
    here: bool
    report: bool
    png: bool
    sample: bool
    force: bool
    cluster: Path | None
    as_json: bool


class DefaultGroup(click.Group):
    """A group whose first argument need not be a verb: then it is `run`'s."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put `run` in front of what names no verb."""
        if not args or args[0] not in self.commands:
            args.insert(0, "run")
        return super().parse_args(context, args)


@click.group("bench", cls=DefaultGroup, add_help_option=False)
def bench() -> None:
    """Measure a server under load; compare and draw results."""


@bench.command("run", context_settings={"help_option_names": ["-h", "--help"]})
@LAUNCH
@click.option("--url", help="Server; without it the launch file's, or the one that runs here.")
@click.option("--model", help="Model name; without it, the server's first.")
@PORT
@tls_options
@click.option("-c", "--concurrency", type=values.numbers_of(int), help="Requests at once; several are a sweep: 1,8,64.")
@click.option("--rate", type=values.numbers_of(float), help="Open loop: requests/s, Poisson; several are a sweep.")
@click.option(
    "-n",
    "--requests",
    type=click.IntRange(min=1),
    help="Requests of each level.  [default: 3 x concurrency, at least 20; with --rate 200]",
)
@click.option("--duration", type=values.time, help="Begin requests for so long, as 60s.")
@click.option("--questions", type=click.Path(path_type=Path), help="JSONL or ShareGPT file.  [default: 500 of our own]")
@click.option("--input-tokens", type=click.IntRange(min=1), help="Synthetic prompts of this length instead.")
@click.option("--output-tokens", type=click.IntRange(min=1), help="Exactly this many for each (vLLM's ignore_eos).")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--api", type=click.Choice(["chat", "completions"]), help="[default: chat; completions if synthetic]")
@click.option("--no-stream", is_flag=True, help="Request complete answers: no times to first token or between tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Default: the server's own.")
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Requests before the first level, not counted.",
)
@click.option("--slo", type=values.slo, help="Count what keeps this as goodput: ttft=2s,tpot=50ms,e2e=30s.")
@click.option("--shards", default="auto", show_default=True, help="Load processes, or auto.")
@click.option("--timeout", type=values.time, default="300s", show_default=True, help="Longest silence on a request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals and synthetic prompts.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Result file.  [default: raylaunch-bench/<time>.json]"
)
@click.option("--here", is_flag=True, help="Send the load from this machine alone, even if Ray has other nodes.")
@click.option("--report/--no-report", default=True, show_default=True, help="Draw the HTML report beside the result.")
@click.option("--png", is_flag=True, help="Also draw a PNG.")
@click.option(
    "--sample/--no-sample", default=True, show_default=True, help="Sample GPUs, network and engine meanwhile."
)
@click.option("--force", is_flag=True, help="Exit 0 even if the result is INVALID; it stays marked.")
@CLUSTER
@JSON
@click.pass_context
def run_bench(context: click.Context, /, **given: Any) -> int:
    """Offer load to an OpenAI-compatible server and measure it.

    The result is a JSON file, with its rows beside it. It is marked INVALID, and the exit status is 1, if the client
    limited the figures or the run ended early.

    `raylaunch bench compare A.json B.json` compares two results; `raylaunch bench report A.json` draws one.
    """
    from raylaunch.base import console
    from raylaunch.base.viewpoint import Viewpoint
    from raylaunch.bench import result as result_file
    from raylaunch.bench.summary import describe_result

    options = BenchOptions(**given)
    path = options.output or _name_result()
    if options.cluster:
        _run_there(context, path)
    else:
        _run_here(options, path)
    draw(path, html=options.report, png=options.png)
    result = result_file.read_result(path)
    if options.as_json:
        console.print_json(result_file.to_json(result))
    else:
        console.print_result("\n".join(describe_result(result)))
    if not Viewpoint.of_this_process().is_remote:  # who brings the files home names them
        console.say(f"files: {path} and those beside it with the same name")
    if result.levels[-1].ended == "stopped":
        return 130
    return 0 if result.valid or options.force else 1


def _run_here(options: BenchOptions, path: Path) -> None:
    from raylaunch.bench import result as result_file
    from raylaunch.bench.target import find_ray

    test, launch = _make_test(options)
    outcome = _run(test, address=None if options.here else find_ray(options.url, options.port), sample=options.sample)
    used = None if launch is None else {"path": str(launch.path)} | launch.dump(mask=True)
    result_file.write_result(path, replace(outcome.result, launch=used), outcome.rows)


def _run_there(context: click.Context, path: Path) -> None:
    """Run the same command on the cluster's head, and copy the result here."""
    from raylaunch.bench import remote
    from raylaunch.config import cluster_file

    if context.params["launch"]:
        raise click.UsageError("with --cluster, the service that runs there is meant: no launch file is needed")
    if any(context.params[name] for name in ("cacert", "cert", "key")):
        raise click.UsageError("--cacert, --cert and --key name files of this machine: they do not go with --cluster")
    words = values.write_options(context, without=_OF_THIS_MACHINE)
    ray_session = cluster_file.load(context.params["cluster"])
    remote.bench(ray_session, words, questions=context.params["questions"], result=path)


_OF_THIS_MACHINE = ("cluster", "output", "questions", "report", "png", "as_json", "force")
"""Options that mean this machine's files and this command's end, wherever the load comes from."""


def _name_result() -> Path:
    import time

    return Path("raylaunch-bench") / f"{time.strftime('%Y%m%d-%H%M%S')}.json"


def _make_test(options: BenchOptions) -> "tuple[LoadTest, Any]":
    from raylaunch.bench import prompts, synthetic
    from raylaunch.bench.figures import Level
    from raylaunch.bench.load import LoadTest
    from raylaunch.bench.stats import Slo
    from raylaunch.bench.target import find_target, try_request

    if options.concurrency and options.rate:
        raise click.UsageError("--concurrency (closed loop) and --rate (open loop) exclude each other")
    if options.questions and options.input_tokens:
        raise click.UsageError("--questions and --input-tokens exclude each other")
    if options.shards != "auto" and not options.shards.isdigit():
        raise click.UsageError("--shards is a number or auto")
    rates = options.rate or ()
    levels = tuple(Level(rate_per_s=rate) for rate in rates) or tuple(
        Level(concurrency=number) for number in options.concurrency or (16,)
    )
    launch = load_launch(options.launch, ()) if options.launch else None
    target = find_target(
        launch=launch,
        url=options.url,
        port=options.port,
        model=options.model,
        tls=make_tls(insecure=options.insecure, cacert=options.cacert, cert=options.cert, key=options.key),
        timeout_s=options.timeout,
    )  # fmt: skip
    tokens = options.input_tokens
    request = prompts.RequestOptions(
        api=options.api or ("completions" if tokens else "chat"),
        stream=not options.no_stream,
        max_tokens=options.output_tokens or options.max_tokens,
        exact=options.output_tokens is not None,
        temperature=options.temperature,
    )
    test = LoadTest(
        target, request, (), levels, options.warmup, options.timeout, options.seed,
        requests=options.requests, duration_s=options.duration,
        shards=None if options.shards == "auto" else int(options.shards),
        slo=Slo(**{f"{key}_s": limit for key, limit in (options.slo or {}).items()}),
    )  # fmt: skip
    asked: Sequence[prompts.LoadPrompt]
    if tokens:
        most = sum(test.count_requests(level) or synthetic.MAX_BODIES for level in levels) + test.warmup
        asked, source = synthetic.make_synthetic(target, request, input_tokens=tokens, count=most, seed=test.seed)
    elif options.questions:
        asked, source = prompts.read_questions(options.questions), options.questions.name
    else:
        asked, source = prompts.list_own_questions(), "raylaunch's own questions"
    try_request(target, request.path, request.make_body(target.model, asked[0]))
    test = replace(test, prompts=asked, source=source)
    return test, launch


def _run(test: "LoadTest", *, address: str | None, sample: bool) -> Any:
    """Run the test here, or over the nodes of the Ray cluster at `address`; sample what the same cluster has."""
    import contextlib
    import signal

    from raylaunch.base import console
    from raylaunch.bench.local_shards import LocalShards, ShardRunner
    from raylaunch.bench.run import run_test
    from raylaunch.bench.sampling import LoadSampler
    from raylaunch.cluster import ray_session

    # A job that is stopped, a container that ends: what was measured is kept then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        sampler = None
        if sample:
            from raylaunch.cluster.monitor_process import ChildMonitor

            sampler = stack.enter_context(LoadSampler(test.target, ChildMonitor(address)))
        runner: ShardRunner = LocalShards()
        is_here_alone = test.target.tls.has_files  # they need not be on other nodes
        if address is not None and not is_here_alone and (test.target.on_all_interfaces or not test.target.is_local):
            from raylaunch.bench.ray_shards import RayShards, find_own_ip

            ray_session.join(address, env_vars={})
            stack.callback(ray_session.leave)
            nodes = ray_session.list_nodes()
            if len(nodes) > 1:
                target = test.target.seen_from_afar(find_own_ip()) if test.target.is_local else test.target
                runner, test = RayShards(nodes), replace(test, target=target, machines=len(nodes))
                console.say(f"load comes from {len(nodes)} nodes: {', '.join(node.ip for node in nodes)}")
        show = stack.enter_context(console.live_lines())
        return run_test(test, runner, sampler, show=show)


bench.add_command(draw_report)
bench.add_command(compare)
COMMANDS = (bench,)
