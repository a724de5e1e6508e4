"""The routes that let the page run the bundled models in the browser: onnxruntime-web's files, and the models' own.

They are there where the operator has named a folder with onnxruntime-web. Only files of these names are sent.
"""

from pathlib import Path

from flask import Flask, Response, request
from werkzeug.wsgi import wrap_file

from millrace.protocol.errors import NotFound
from serving.service import Service
from serving.web.card_routes import version_folder
from serving.web.page_files import PREFIX

_RUNTIME = {
    "ort.wasm.min.mjs": "text/javascript; charset=utf-8",
    "ort-wasm-simd-threaded.mjs": "text/javascript; charset=utf-8",
    "ort-wasm-simd-threaded.wasm": "application/wasm",
}
# Where the files are in the folder: beside each other, or as npm puts them.
_PLACES = ("", "dist", "node_modules/onnxruntime-web/dist", "onnxruntime-web/dist")
_OF_MODELS = {"model.onnx": "application/octet-stream", "vocabulary.txt": "text/plain; charset=utf-8"}


def add_routes(app: Flask, service: Service) -> None:
    """Add the routes."""

    @app.get(f"{PREFIX}assets/<file>")
    def _runtime(file: str) -> Response:
        folder = _assets(service)
        for place in _PLACES:
            path = folder / place / file
            if file in _RUNTIME and path.is_file():
                return _file(path, _RUNTIME[file])
        raise NotFound(f"there is no {file[:100]!r} in the folder that MILLRACE_SERVING_PLAYGROUND_ASSETS names")

    @app.get("/v1/models/<name>/versions/<int:number>/files/<file>")
    def _model_file(name: str, number: int, file: str) -> Response:
        _assets(service)
        path = version_folder(service, name, number) / file
        if file not in _OF_MODELS or path.is_symlink() or not path.is_file():
            raise NotFound(f"version {number} of {name!r} has no file {file[:100]!r} to download")
        return _file(path, _OF_MODELS[file])


def _assets(service: Service) -> Path:
    folder = service.settings.playground_assets
    if folder is None:
        raise NotFound("models do not run in the browser here: MILLRACE_SERVING_PLAYGROUND_ASSETS names no folder")
    return folder


def _file(path: Path, content_type: str) -> Response:
    response = Response(wrap_file(request.environ, path.open("rb")), direct_passthrough=True)
    response.content_length = path.stat().st_size
    response.content_type = content_type
    response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
    return response
