"""What one gateway is told at its start. The command line's options are these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gateway.access import is_loopback
from gateway.fetch import RemoteImages
from gateway.request import RequestLimits
from monitors.errors import UserError
from monitors.formats import Format
from monitors.images import ImageLimits
from monitors.policy import Policy
from monitors.policy_file import load_policy
from monitors.taxonomy import Mode

Expose = Literal["action", "detail"]
UPSTREAM_KEY = "MLRM_GUARD_UPSTREAM_KEY"


@dataclass(slots=True, frozen=True)
class Settings:
    """Validated by `check`; `mode` and `judge` override the policy file."""

    upstream: str
    policy_file: Path
    host: str = "127.0.0.1"
    port: int = 8080
    mode: Mode | None = None
    judge: str | None = None
    expose: Expose = "action"
    keys_file: Path | None = None
    upstream_key: str | None = None
    format: Format | None = None
    """None: what the probe finds."""
    permissive: bool = False
    max_streams: int = 256
    request_limits: RequestLimits = field(default_factory=RequestLimits)
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    remote_images: RemoteImages | None = None
    """None: images with http(s) URLs are refused."""

    def check(self) -> None:
        """Raises UserError for settings that must not start."""
        check_base_url("--upstream", self.upstream)
        if self.keys_file is None and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host}: refusing to serve beyond loopback without keys; "
                "make one with `mlrm-guard keys new NAME` and pass --keys FILE"
            )

    def policy(self) -> Policy:
        """The policy file, with the overrides. Raises PolicyError."""
        policy = load_policy(self.policy_file)
        if self.mode is not None:
            policy = policy.with_mode(self.mode)
        return policy.with_judge(self.judge) if self.judge is not None else policy


def check_base_url(name: str, url: str) -> None:
    """Raises UserError for what is no upstream's base URL; `name` is the option that gave it."""
    if "@" in url:  # never printed: it may hold a password, wherever a parser sees it
        raise UserError(f"{name}: must hold no user or password; set {UPSTREAM_KEY} for a key")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that cannot be
        usable = False
    if not usable or parts.query or parts.fragment:
        raise UserError(f"{name} {url}: must be http(s)://HOST[:PORT]/v1")
    if not parts.path.rstrip("/").endswith("/v1"):
        raise UserError(f"{name} {url}: must end in /v1")
