"""`raylaunch ask`: one question, its answer streamed, through the openai client that users' programs use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raylaunch.base.errors import ServiceError
from raylaunch.base.viewpoint import HERE, Viewpoint

if TYPE_CHECKING:
    from openai import Omit, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

_CONNECT_TIMEOUT_S = 10.0


def ask(
    question: str,
    *,
    url: str,
    model: str | None,
    api_key: str | None,
    max_tokens: int | None,
    timeout_s: float,
    name: str = "",
    view: Viewpoint = HERE,
) -> Iterator[str]:
    """Ask and yield the answer piece by piece.

    A chat completion; where the model has no chat template, a plain completion of the question.

    Args:
        url: of the server, without /v1.
        model: name; None: the first model of the server.
        max_tokens: longest answer in tokens; None: the server's default.
        timeout_s: longest wait for the next piece, in seconds.
        name: what errors call the server; default: `url`.
        view: where the commands of errors are typed.

    Raises:
        ServiceError: no answer from `url`, a wrong key or model, or an answer that broke off.
    """
    import openai

    name, status = name or url, view.command("status")
    client = openai.OpenAI(
        base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1",
        api_key=api_key or "none",
        timeout=openai.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        max_retries=0,
    )
    try:
        limit = openai.omit if max_tokens is None else max_tokens
        chosen = model or client.models.list().data[0].id
        try:
            yield from _chat(client, chosen, question, limit)
        except openai.BadRequestError as error:
            if "chat template" not in str(error).lower():
                raise
            yield from _complete(client, chosen, question, limit)
    except openai.AuthenticationError as error:
        raise ServiceError(
            f"{name} rejects the API key" if api_key else f"{name} requires an API key",
            fix="set RAYLAUNCH_SERVER__API_KEY (or OPENAI_API_KEY) to the key the server was started with",
        ) from error
    except openai.NotFoundError as error:
        names = ", ".join(entry.id for entry in client.models.list().data)
        raise ServiceError(f"{name} serves no model {model}", fix=f"it serves: {names}") from error
    except openai.APITimeoutError as error:
        raise ServiceError(
            f"no answer from {name} within {timeout_s:.0f} s", fix=f"`{status}` shows its queue"
        ) from error
    except openai.APIConnectionError as error:
        raise ServiceError(
            f"cannot connect to {name}: {error.__cause__ or error}",
            fix=f"`{status}` shows what serves there; start with `{view.command('serve', 'LAUNCH.yaml')}`",
        ) from error
    except openai.APIError as error:
        raise ServiceError(f"{name} answered with an error: {error}", fix=f"`{status}` shows its state") from error


def _chat(client: "OpenAI", model: str, question: str, max_tokens: "int | Omit") -> Iterator[str]:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    stream = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, stream=True)
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield text


def _complete(client: "OpenAI", model: str, question: str, max_tokens: "int | Omit") -> Iterator[str]:
    stream = client.completions.create(model=model, prompt=question, max_tokens=max_tokens, stream=True)
    for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].text):
            yield text
