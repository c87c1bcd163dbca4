"""The responses of the viewer: JSON that a browser can read whatever is in a run, and errors of one sentence."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse, Response


class TextResponse(Response):
    """A response of plain text, as bytes."""

    media_type = "text/plain; charset=utf-8"


class Json(JSONResponse):
    """JSON in ASCII, so that halves of surrogate pairs pass; numbers that are not finite are null."""

    def render(self, content: Any) -> bytes:
        """The content as bytes."""
        try:
            return _dump(content)
        except ValueError:
            return _dump(finite(content))


def error_response(status: int, message: str) -> Json:
    """A response with an error of one sentence."""
    return Json({"error": message}, status_code=status)


def finite(content: Any) -> Any:
    """The same content with None for every number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def _dump(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
