"""The entry point: `raylaunch` and `python -m raylaunch`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while its modules are imported ends it without a traceback."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell has it ignored
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from raylaunch.cli.main import main as run

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
