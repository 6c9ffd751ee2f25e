"""The `ssh` of these tests: records how it was called, and answers by the first file that fits (conftest.FakeSsh)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def find_answer(folder: Path, host: str, command: str) -> dict:
    for file in sorted(folder.glob("answer-*.json")):
        try:
            answer = json.loads(file.read_text())
        except FileNotFoundError:  # another ssh used it up
            continue
        if answer["text"] not in command or answer["host"] not in ("", host):
            continue
        if not answer.get("once"):
            return answer
        try:
            file.rename(file.with_suffix(".used"))
        except FileNotFoundError:
            continue
        return answer
    return {"stdout": "", "stderr": f"no answer for {command}\n", "status": 99}


def forward(options: list) -> None:
    """Listen on the local port until the end, as `ssh -N` does."""
    (option,) = (option for option in options if option.startswith("LocalForward="))
    address, _, port = option.removeprefix("LocalForward=").split(" ")[0].rpartition(":")
    with socket.create_server((address, int(port))) as listener:
        while True:
            listener.accept()[0].close()


def main() -> None:
    folder, argv = Path(sys.argv[1]), sys.argv[2:]
    target, *remote = argv[argv.index("--") + 1 :]
    host, command = target.partition("@")[2], " ".join(remote)
    answer = find_answer(folder, host, command or "forward")
    keeps_stdin = {"stays", "quits", "here"} & {*answer} or "probe" in answer or "-N" in argv
    first = sys.stdin.readline() if "probe" in answer else ""
    stdin = "" if keeps_stdin else sys.stdin.buffer.read().decode(errors="replace")
    call = {"argv": ["ssh", *argv], "host": host, "command": command, "stdin": stdin}
    temporary = folder / f"new-{os.getpid()}"
    temporary.write_text(json.dumps(call))
    temporary.rename(folder / f"call-{time.time_ns():020}-{os.getpid()}.json")
    time.sleep(answer.get("sleep_s", 0))
    if answer.get("here"):
        sys.exit(subprocess.run(["bash", "-c", command], check=False).returncode)
    if "-N" in argv and answer["status"] == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        forward(argv)
    if "probe" in answer:  # the script's first line is: set -- MARK ...
        mark = first.split()[2].strip("'")
        sys.stdout.write(Path(answer["probe"]).read_text().replace("@mark", mark) + f"\n{mark} end \n")
    sys.stdout.write(answer["stdout"])
    sys.stdout.flush()
    sys.stderr.write(answer["stderr"])
    if answer.get("stays") or "probe" in answer:
        sys.stdin.read()
    sys.exit(answer["status"])


if __name__ == "__main__":
    main()
