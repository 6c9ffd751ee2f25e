"""`raylaunch ask`: one question, its answer streamed, through the openai client that users' programs use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raylaunch.base.errors import ServiceError

if TYPE_CHECKING:
    from openai import Omit, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

_CONNECT_TIMEOUT_S = 10.0


def ask(
    question: str, *, url: str, model: str | None, api_key: str | None, max_tokens: int | None, timeout_s: float
) -> Iterator[str]:
    """Ask and yield the answer piece by piece.

    A chat completion; where the model has no chat template, a plain completion of the question.

    Args:
        url: of the server, without /v1.
        model: name; None: the first model of the server.
        max_tokens: longest answer in tokens; None: the server's default.
        timeout_s: longest wait for the next piece, in seconds.

    Raises:
        ServiceError: no answer from `url`, a wrong key or model, or an answer that broke off.
    """
    import openai

    client = openai.OpenAI(
        base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1",
        api_key=api_key or "none",
        timeout=openai.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
        max_retries=0,
    )
    try:
        limit = openai.omit if max_tokens is None else max_tokens
        name = model or client.models.list().data[0].id
        try:
            yield from _chat(client, name, question, limit)
        except openai.BadRequestError as error:
            if "chat template" not in str(error).lower():
                raise
            yield from _complete(client, name, question, limit)
    except openai.AuthenticationError as error:
        raise ServiceError(
            f"{url} rejects the API key" if api_key else f"{url} requires an API key",
            fix="set RAYLAUNCH_SERVER__API_KEY (or OPENAI_API_KEY) to the key the server was started with",
        ) from error
    except openai.NotFoundError as error:
        names = ", ".join(entry.id for entry in client.models.list().data)
        raise ServiceError(f"{url} serves no model {model}", fix=f"it serves: {names}") from error
    except openai.APITimeoutError as error:
        raise ServiceError(
            f"no answer from {url} within {timeout_s:.0f} s", fix="`raylaunch status` shows its queue"
        ) from error
    except openai.APIConnectionError as error:
        raise ServiceError(
            f"cannot connect to {url}: {error.__cause__ or error}",
            fix="`raylaunch status` shows what serves here; start with `raylaunch serve`",
        ) from error
    except openai.APIError as error:
        raise ServiceError(
            f"{url} answered with an error: {error}", fix="`raylaunch status` shows its state"
        ) from error


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
