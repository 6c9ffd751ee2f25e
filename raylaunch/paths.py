"""Where raylaunch keeps what it must remember: one folder, `~/.raylaunch`, or where RAYLAUNCH_HOME points.

::

    ~/.raylaunch/
      models/<owner>--<name>/   models fetched without a `model.path`
      services/<port>/          one folder a service: service.json, engine.log
      options/                  option tables read off an installed vLLM, by version
      bugs/                     reports of bugs of ours (exit code 3)
"""

import os
from pathlib import Path


def home() -> Path:
    """The folder of raylaunch's own state (not made by asking)."""
    return Path(os.environ.get("RAYLAUNCH_HOME") or Path.home() / ".raylaunch").expanduser().absolute()


def make_private(folder: Path) -> Path:
    """Make `folder` and its parents (0700 for new ones: logs may quote questions), and return it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
