"""Ray's authentication tokens: where they are, how a user gives one."""

import os
import secrets
from pathlib import Path

HOW_TO_GIVE_A_TOKEN = (
    "put the cluster's token (`ray get-auth-token` on its head) into ~/.ray/auth_token, or name it "
    "by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
)
_GIVEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_OWN = secrets.token_hex(32)  # one for a process: Ray keeps the first that it has seen


def token_file() -> Path:
    """Where Ray looks for a token that nothing else names."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))


def use_own_token() -> None:
    """Before Ray is started here, if there is no token.

    Ray would leave one in the home folder, where the next `ray start --head` finds it and asks
    everybody for it.
    """
    if not any(name in os.environ for name in _GIVEN) and not token_file().exists():
        os.environ["RAY_AUTH_TOKEN"] = _OWN
