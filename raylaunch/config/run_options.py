"""docker.run_options as the host's shell and then `docker run` read them: words, options, volumes.

What a shell on the host expands (`$NAME`, `$(command)`) is not known here; such values keep their text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FLAGS = frozenset(
    {
        *("--detach", "--disable-content-trust", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable"),
        *("--privileged", "--publish-all", "--quiet", "--read-only", "--rm", "--sig-proxy", "--tty"),
        "--use-api-socket",
    }
)
"""Options of `docker run` (29) that take no value."""
_SHORT_FLAGS = {"d": "--detach", "i": "--interactive", "t": "--tty", "P": "--publish-all", "q": "--quiet"}
_SHORT = {
    "a": "--attach", "c": "--cpu-shares", "e": "--env", "h": "--hostname", "l": "--label", "m": "--memory",
    "p": "--publish", "u": "--user", "v": "--volume", "w": "--workdir",
}  # fmt: skip
_HOME = re.compile(r"^(?:\$HOME|\$\{HOME\})(?=/|$)")
_NO_MODELS = re.compile(
    r"^/(?:etc|dev|proc|sys|run|var/run|usr|tmp|lib|lib64|bin|root/\.ssh|root/\.raylaunch|opt/raylaunch-image)(?:/|$)"
)
_MODEL_WORDS = re.compile(r"model|data|hugging|hf|weights", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RunOption:
    """An option by its long name, with its value ("" for one without)."""

    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder or file of the host in the container."""

    source: str
    """Path on the host; one in the home folder of the login starts with "~/"; a name without "/" is docker's own."""
    target: str
    """Path in the container."""

    @classmethod
    def of(cls, source: str, target: str) -> "Volume":
        """As they are written in an option."""
        return cls(_HOME.sub("~", source), target.rstrip("/") or "/")

    def holds(self, path: str) -> bool:
        """Whether a path of the container is in it."""
        return self.target in ("/", path) or path.startswith(f"{self.target}/")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything in docker.run_options."""

    options: tuple[RunOption, ...]
    stray: tuple[str, ...] = ()
    """Words that belong to no option: docker takes the first for the image."""

    @classmethod
    def parse(cls, lines: Sequence[str]) -> "RunOptions":
        """Read the lines of run_options, which Ray's launcher joins with spaces.

        Raises:
            ValueError: a quote or a parenthesis is not closed.
        """
        options: list[RunOption] = []
        stray: list[str] = []
        words = split_words(" ".join(lines))
        at = 0
        while at < len(words):
            following = words[at + 1] if at + 1 < len(words) else None
            found, taken = _read_option(words[at], following)
            if found:
                options += found
            elif not is_expanded(words[at]):
                stray.append(words[at])
            at += 1 + taken
        return cls(tuple(options), tuple(stray))

    def find(self, name: str) -> str | None:
        """The last value of an option, "" for one without a value, or None."""
        return next((option.value for option in reversed(self.options) if option.name == name), None)

    def find_all(self, name: str) -> tuple[str, ...]:
        """All values of an option."""
        return tuple(option.value for option in self.options if option.name == name)

    def find_variable(self, name: str) -> str | None:
        """The last value that a variable is given, or None; `-e NAME` alone passes on the host's value, "$NAME"."""
        for value in reversed(self.find_all("--env")):
            if value.partition("=")[0] == name:
                return value.partition("=")[2] if "=" in value else f"${name}"
        return None

    def list_volumes(self) -> tuple[Volume, ...]:
        """All volumes and bind mounts, in their order."""
        return tuple(volume for option in self.options for volume in _read_volume(option))

    def find_model_volume(self, path: str | None, default: str) -> Volume | None:
        """The volume that holds a path of the container, or None where no volume does.

        Args:
            path: of the model in the container; None: that of `default`, else the volume that looks like one of models.
            default: the usual folder of models.
        """
        volumes = self.list_volumes()
        holding = [volume for volume in volumes if volume.holds(path or default)]
        if holding or path:
            return max(holding, key=lambda volume: len(volume.target.rstrip("/")), default=None)
        likely = [volume for volume in volumes if not _NO_MODELS.match(volume.target) and "." not in volume.target[-5:]]
        named = [volume for volume in likely if _MODEL_WORDS.search(volume.target)]
        return next(iter([*named, *likely]), None)


def is_expanded(text: str) -> bool:
    """Whether a shell on the host expands it, so that its value is not known here."""
    return "$" in text or "`" in text


def split_words(text: str) -> list[str]:
    """The words of a shell's line, without their quotes; substitutions stay as they are.

    Raises:
        ValueError: a quote or a parenthesis is not closed.
    """
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(text):
        char = text[at]
        if char.isspace():
            if word is not None:
                words.append(word)
            word, at = None, at + 1
            continue
        piece, at = _read_piece(text, at, quoted=False)
        word = (word or "") + piece
    return [*words, *([word] if word is not None else [])]


def _read_piece(text: str, at: int, *, quoted: bool) -> tuple[str, int]:
    """A character, a quoted text or a substitution at `at`, and where it ends."""
    char = text[at]
    if char == "\\" and at + 1 < len(text):
        return text[at + 1], at + 2
    if char == "'" and not quoted:
        end = _find_end(text, "'", at + 1)
        return text[at + 1 : end], end + 1
    if char == '"' and not quoted:
        value, at = "", at + 1
        while at < len(text) and text[at] != '"':
            piece, at = _read_piece(text, at, quoted=True)
            value += piece
        if at >= len(text):
            raise ValueError('" is not closed')
        return value, at + 1
    if char == "`":
        end = _find_end(text, "`", at + 1)
        return text[at : end + 1], end + 1
    if text.startswith(("$(", "${"), at):
        end = _find_bracket(text, at + 1)
        return text[at:end], end
    return char, at + 1


def _find_end(text: str, mark: str, start: int) -> int:
    if (end := text.find(mark, start)) < 0:
        raise ValueError(f"{mark} is not closed")
    return end


def _find_bracket(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`."""
    depth, pairs = 0, {"(": ")", "{": "}"}
    opening, closing = text[start], pairs[text[start]]
    for at in range(start, len(text)):
        depth += (text[at] == opening) - (text[at] == closing)
        if depth == 0:
            return at + 1
    raise ValueError(f"${opening} is not closed")


def _read_option(word: str, following: str | None) -> tuple[list[RunOption], int]:
    """The options in a word, and how many words beyond it they take."""
    has_value = following is not None and not re.match(r"-\D", following)
    if word.startswith("--") and len(word) > 2:
        name, equals, value = word.partition("=")
        if equals or name in _FLAGS or not has_value:
            return [RunOption(name, value)], 0
        return [RunOption(name, following or "")], 1
    if not word.startswith("-") or len(word) < 2:
        return [], 0
    found: list[RunOption] = []
    for at, letter in enumerate(word[1:], 1):
        if letter in _SHORT_FLAGS:
            found.append(RunOption(_SHORT_FLAGS[letter]))
        elif letter in _SHORT:
            rest = word[at + 1 :].removeprefix("=")
            return [*found, RunOption(_SHORT[letter], rest or (following or ""))], 0 if rest else 1
        else:
            return [*found, RunOption(word)], 0
    return found, 0


def _read_volume(option: RunOption) -> Iterator[Volume]:
    if option.name == "--volume":
        parts = re.split(r":(?![^{}]*\})", option.value)  # at colons that are in no `${...}`
        if len(parts) > 1:
            yield Volume.of(parts[0], parts[1])
    elif option.name == "--mount":
        fields = dict(part.partition("=")[::2] for part in option.value.split(","))
        source = fields.get("source") or fields.get("src")
        target = fields.get("target") or fields.get("destination") or fields.get("dst")
        if target and fields.get("type", "volume") in ("bind", "volume"):
            yield Volume.of(source or "", target)
