"""Runs the child: its messages must be of the module that the parent imports, not of __main__."""

from tests.base.echo_child import run_child

if __name__ == "__main__":
    run_child()
