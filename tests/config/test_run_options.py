"""docker.run_options: words, options, volumes, and the GPUs that they give a container."""

import pytest

from raylaunch.config.gpu_request import GpuRequest
from raylaunch.config.run_options import RunOptions, Volume, split_words

GPUS = [(index, f"GPU-{index}") for index in range(8)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--gpus '\"device=2,3\"' -it", ["--gpus", '"device=2,3"', "-it"]),
        ('-v "/mnt/big disk:/data" \'a"b\'', ["-v", "/mnt/big disk:/data", 'a"b']),
        ("-e A=$(set -- $B; echo $3) -e C=${D:-x y}", ["-e", "A=$(set -- $B; echo $3)", "-e", "C=${D:-x y}"]),
        ('--entrypoint ""', ["--entrypoint", ""]),
        ("a\\ b `x y`", ["a b", "`x y`"]),
    ],
)
def test_words_are_a_shells(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize("text", ['-v "/data', "-e A='b", "-e A=$(b", "-e A=`b"])
def test_an_open_quote_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not closed"):
        split_words(text)


def test_options_as_docker_reads_them() -> None:
    """Long and short, joined and apart, flags without a value; the last of two counts."""
    options = RunOptions.parse(
        ["-it --init --rm -v/a:/b", "--memory-swap -1 -eX=1 -e X=2 --shm-size=1g", "-e HOST_VALUE"]
    )
    assert options.stray == ()
    assert options.find("--init") == options.find("--tty") == ""
    assert (options.find("--shm-size"), options.find("--memory-swap"), options.find("--gpus")) == ("1g", "-1", None)
    assert (options.find_variable("X"), options.find_variable("HOST_VALUE")) == ("2", "$HOST_VALUE")
    assert options.find_variable("Y") is None


def test_words_that_belong_to_no_option_are_found() -> None:
    """What a shell on the host expands may be an option."""
    assert RunOptions.parse(["-v /mnt/big disk:/data $MORE $(cat options)"]).stray == ("disk:/data",)


@pytest.mark.parametrize(
    ("options", "path", "source"),
    [
        ("-v /etc/localtime:/etc/localtime:ro -v /data:/data", None, "/data"),
        ("-v $HOME/models:/models", None, "~/models"),
        ("-v ~/m:/m --volume=/srv/hf:/root/.cache/huggingface", None, "/srv/hf"),
        ("--mount type=bind,source=/srv/models,target=/models,readonly", "/models/m", "/srv/models"),
        ("-v /fast:/data/fast -v /slow:/data", "/data/fast/m", "/fast"),
        ("-v /fast:/data/fast -v /slow:/data", "/data/m", "/slow"),
        ("-v /var/run/docker.sock:/var/run/docker.sock -v /big:/scratch", None, "/big"),
        ("-v weights:/models", "/models/m", "weights"),
        ("-v /data:/data", "/elsewhere/m", None),
        ("-v ${DISK:-/srv}:/models", None, "${DISK:-/srv}"),
    ],
)
def test_the_volume_of_the_model(options: str, path: str | None, source: str | None) -> None:
    """The one that holds its path in the container; without a path, one that looks like it."""
    found = RunOptions.parse([options]).find_model_volume(path, "/data")
    assert (found and found.source) == source


def test_volumes_are_listed_by_their_normal_path() -> None:
    assert RunOptions.parse(["-v '/a b':/data/ -v anonymous"]).list_volumes() == (Volume("/a b", "/data"),)


@pytest.mark.parametrize(
    ("options", "commands", "places"),
    [
        ("--gpus all", "", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("--gpus=2", "", (0, 1)),
        ("--gpus '\"device=2,3\",capabilities=utility'", "", (2, 3)),
        ("--gpus 'all,capabilities=utility'", "", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("--gpus device=GPU-5", "", (5,)),
        ("--device=nvidia.com/gpu=1", "", (1,)),
        ("--device nvidia.com/gpu=all", "", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("--device /dev/nvidia6 --device /dev/nvidiactl", "", (6,)),
        ("--runtime nvidia", "", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("-e NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2", "", (1, 2)),
        ("--gpus all -e NVIDIA_VISIBLE_DEVICES=6,7", "", (6, 7)),
        ("--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=void", "", ()),
        ("--gpus '\"device=4,5,6,7\"' -e CUDA_VISIBLE_DEVICES=1,0", "", (5, 4)),
        ("--gpus all", "export CUDA_VISIBLE_DEVICES='4,5'; ray start --head", (4, 5)),
        ("--gpus all", "ray start --head --port=6379 --num-gpus=2", (0, 1)),
        ("", "", ()),
    ],
)
def test_the_gpus_that_ray_takes(options: str, commands: str, places: tuple[int, ...]) -> None:
    request = GpuRequest.read(RunOptions.parse([options]), [commands])
    assert request.select(GPUS).places == places
    assert request.asks == bool(places)
    assert request.count_expected(GPUS) == len(places)


@pytest.mark.parametrize(
    ("options", "missing"),
    [("--gpus 10", ("8", "9")), ("--gpus '\"device=7,8\"'", ("8",)), ("--gpus device=GPU-x", ("GPU-x",))],
)
def test_gpus_that_a_host_does_not_have(options: str, missing: tuple[str, ...]) -> None:
    assert GpuRequest.read(RunOptions.parse([options]), []).select(GPUS).unknown == missing


@pytest.mark.parametrize(
    "options",
    [
        "--gpus $N",
        "-e NVIDIA_VISIBLE_DEVICES=${G:-all}",
        "--device nvidia.com/gpu=0:1",
        "--gpus all -e CUDA_VISIBLE_DEVICES",
    ],
)
def test_gpus_that_only_the_host_knows(options: str) -> None:
    """A shell's variable there, or a MIG device."""
    request = GpuRequest.read(RunOptions.parse([options]), [])
    assert request.asks
    assert request.unknown
    assert (request.count_expected(GPUS), request.count_expected([])) == (1, 0)


@pytest.mark.parametrize("options", ["--gpus device=2,3", "--gpus some"])
def test_values_that_docker_rejects(options: str) -> None:
    with pytest.raises(ValueError, match=r"device|number"):
        GpuRequest.read(RunOptions.parse([options]), [])
