"""What a server allows, and how it says no."""

import dataclasses
from pathlib import Path
from typing import Any

from lam_jax.errors import BadSettingError

API_KEY = "LAM_JAX_API_KEY"  # environment variable


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """What a server allows.

    Attributes:
        host, port: address that it listens on; port 0: any free one.
        name: of the model, as clients name it; default: that of the agent's folder.
        slots: samples that are decoded at a time.
        segment: decode steps between two looks at who joins, has ended or is gone; what streams come in.
        length: most tokens of an answer; default: the agent's own.
        queue: requests that may wait beside those that could run; more are told to come back.
        samples: most answers to a request (`n`).
        image_root: folder that pictures may be named in, by path or file address; None: they come in data addresses.
        pictures: most pictures of a request.
        pixels: most pixels of a picture.
        body: most bytes of a request.
        timeout: seconds that a request may take from its arrival.
        read_timeout: seconds in which its body has to arrive.
        grace: seconds that a shutdown waits for what runs; None: as long as it takes.

    Raises:
        BadSettingError: a number out of its range, or no such folder.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    slots: int = 16
    segment: int = 4
    length: int | None = None
    queue: int = 64
    samples: int = 16
    image_root: Path | None = None
    pictures: int = 4
    pixels: int = 16_000_000
    body: int = 32 * 2**20
    timeout: float = 120.0
    read_timeout: float = 30.0
    grace: float | None = None

    def __post_init__(self):
        for name in ("slots", "segment", "length", "samples", "pictures", "pixels", "body"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadSettingError(f"{name}: found {value}, expected at least 1.")
        if self.queue < 0:
            raise BadSettingError(f"queue: found {self.queue}, expected 0 or more.")
        for name in ("timeout", "read_timeout", "grace"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise BadSettingError(f"{name}: found {value}, expected seconds, more than 0.")
        if not 0 <= self.port < 2**16:
            raise BadSettingError(f"port: found {self.port}, expected 0 (any free one) to {2**16 - 1}.")
        if self.image_root is not None and not Path(self.image_root).is_dir():
            raise BadSettingError(f"image_root: {self.image_root} is no folder.")


class Refusal(Exception):
    """A request that is not answered, and why.

    Attributes:
        status: of HTTP.
        message: what was found, what was expected.
        param: the field that it is about.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """As JSON values, in the form of the OpenAI API."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
