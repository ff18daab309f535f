"""Static files: hashed names may be kept for ever, and travel compressed."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request
from flask import send_from_directory as send
from werkzeug.security import safe_join

FOLDER = Path(__file__).parent / "static"
YEAR_S = 365 * 24 * 3600
HOUR_S = 3600


def init(app: Flask) -> None:
    app.add_url_rule("/static/<path:filename>", endpoint="static", view_func=serve)


def serve(filename: str) -> Response:
    """A file below ``static``; its ``.gz`` neighbour where the browser takes that."""
    hashed = filename.startswith("dist/")
    path = safe_join(str(FOLDER), filename)
    packed = f"{filename}.gz"
    if hashed and path and request.accept_encodings.quality("gzip") > 0 and Path(f"{path}.gz").is_file():
        response = send(FOLDER, packed, mimetype=_type(filename), max_age=YEAR_S)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = send(FOLDER, filename, max_age=YEAR_S if hashed else HOUR_S)
    response.headers["Vary"] = "Accept-Encoding"
    if hashed and response.cache_control:
        response.cache_control.immutable = True
    return response


def _type(filename: str) -> str:
    return {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}.get(
        Path(filename).suffix, "application/octet-stream"
    )
