"""Who may ask, and how many at once: API keys, and the check that an admin request comes from this machine and not from a web page.

Pure decisions over settings and header values. Does not count slots (engines do) and reads no request object.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from serving.errors import ApiError
from settings import ServeSettings, SettingsError

KEY_VARIABLE = "BRANCHWISE_API_KEY"
_MIN_KEY_CHARS = 16
_MOST_ANSWERS = 320 if os.name == "nt" else 800  # server.py takes 400 and 1,000 connections, and each answer has a thread of its own


def answers_at_once(serve: ServeSettings, *, models: int) -> int:
    """Requests under way at once over all nodes: every slot of every model, and a queue. One more is refused, because it would wait
    for a thread of the server, where nobody sees that its client left and nothing bounds its wait. Pure."""
    return min(models * serve.slots + serve.queue, _MOST_ANSWERS)


def is_loopback(host: str) -> bool:
    """True for localhost and addresses that never leave this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(serve: ServeSettings, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """API keys from serve.api_key_file (one a line) and the environment. Raises SettingsError when one is needed and none is
    there, or when one is too short to be safe."""
    keys = [environment[KEY_VARIABLE].strip()] if environment.get(KEY_VARIABLE, "").strip() else []
    if serve.api_key_file is not None:
        try:
            lines = Path(serve.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"serve.api_key_file = {serve.api_key_file!r} can't be read: {error}") from None
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for key in keys:
        if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable():
            raise SettingsError(f"an API key has {len(key)} characters; at least {_MIN_KEY_CHARS} printable ASCII ones are needed")
    if not keys and not is_loopback(serve.host):
        raise SettingsError(f"serve.host = {serve.host!r} is open to other machines and there is no API key; "
                            f"name serve.api_key_file, set {KEY_VARIABLE}, or listen on 127.0.0.1")
    return tuple(keys)


def bearer(header: str | None) -> str | None:
    """The key of an Authorization header."""
    kind, _, key = (header or "").partition(" ")
    return key.strip() if kind.lower() == "bearer" and key.strip() else None


def key_known(key: str | None, keys: tuple[str, ...]) -> bool:
    """Constant-time comparison with every key."""
    given = (key or "").encode("utf-8", "replace")
    return sum(hmac.compare_digest(given, known.encode()) for known in keys) > 0  # a sum compares with every key, any() would stop


def check_key(header: str | None, keys: tuple[str, ...]) -> None:
    """Raises 401 unless the header bears a known key; without keys everybody on this machine may ask."""
    if keys and not key_known(bearer(header), keys):
        raise ApiError(401, "no valid API key; send Authorization: Bearer KEY", code="invalid_api_key")


def check_admin(*, authorization: str | None, remote: str | None, origin: str | None, host: str | None, keys: tuple[str, ...]) -> None:
    """Raises 403 unless the request bears a key, or comes from this machine and from no foreign web page.

    A page on the net can make a browser send requests to 127.0.0.1: such a request has a foreign Origin, or a foreign Host
    when the page's name was re-bound to the loopback address.
    """
    if keys:
        check_key(authorization, keys)
        return
    if remote is None or not is_loopback(remote):
        raise ApiError(403, "admin addresses answer to this machine only, or to an API key", code="admin_forbidden")
    for what, address in (("Origin", origin), ("Host", f"//{host}" if host else None)):
        name = _hostname(address) if address is not None else "localhost"
        if name is None or not is_loopback(name):
            raise ApiError(403, f"admin addresses don't answer to the {what} {address!r}; ask from this machine, or with an API key", code="admin_forbidden")


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
