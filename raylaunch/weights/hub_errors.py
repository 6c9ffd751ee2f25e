"""Explain why the hub refused a request."""

from typing import TYPE_CHECKING, Any

from raylaunch.base.errors import WeightsError

if TYPE_CHECKING:
    from raylaunch.weights.hub_types import HubAccess

RESUMES = "run the command again: it resumes where it stopped"


class HubRefusedError(WeightsError):
    """The hub refuses the repo to every node; a retry does not help."""


def explain_refusal(error: Any, repo: str, revision: str | None, access: "HubAccess") -> WeightsError:
    """The error for a refusal by the hub, with its cause and fix.

    Args:
        error: huggingface_hub's HfHubHTTPError.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    endpoint, status = access.endpoint, error.response.status_code
    token_fix = f"make a token at {endpoint}/settings/tokens and set HF_TOKEN to it"
    if isinstance(error, GatedRepoError):
        what, fix = (
            f"{repo} is gated, and this account has no access yet",
            (f"accept its terms at {endpoint}/{repo}, then " + ("try again" if access.token else token_fix)),
        )
    elif isinstance(error, RevisionNotFoundError):
        what, fix = f"{repo} has no revision {revision}", f"{endpoint}/{repo}/commits/main lists them (model.revision)"
    elif status == 401 and access.token:
        what, fix = f"{endpoint} refuses the token in HF_TOKEN (401)", token_fix
    elif status == 401:
        what = f"{repo} is private, or not on {endpoint} (401: the hub reports which only with a token)"
        fix = f"check the spelling of model.repo; if it is private, {token_fix}"
    elif isinstance(error, RepositoryNotFoundError):
        what, fix = f"{endpoint} has no model {repo} (404)", "check the spelling of model.repo"
    elif status == 403:
        what, fix = f"{endpoint} denies access to {repo} (403)", f"ask its owner for access, or {token_fix}"
    elif status == 429:
        what = f"{endpoint} limits the request rate (429)"
        return WeightsError(what, fix=f"wait some minutes, or {token_fix}; it resumes")
    else:
        return WeightsError(f"{endpoint} answered {status} for {repo}", fix=RESUMES)
    return HubRefusedError(what, fix=fix)
