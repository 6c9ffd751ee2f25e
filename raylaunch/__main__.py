"""`python -m raylaunch`."""

from raylaunch.cli.main import main

if __name__ == "__main__":
    main()
