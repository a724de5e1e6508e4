"""The routes of models' cards: what is in a version's manifest, and its plots, read from the model repository."""

from pathlib import Path

import msgspec
from flask import Flask, Response

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest, ManifestError
from millrace.protocol.errors import NotFound
from serving.service import Service
from serving.web import schemas

_MOST_PLOT_BYTES = 4 * 2**20


def add_routes(app: Flask, service: Service) -> None:
    """Add the routes."""

    @app.get("/v1/models/<name>/versions/<int:number>/card")
    def _card(name: str, number: int) -> Response:
        folder = version_folder(service, name, number)
        return Response(msgspec.json.encode(_shown(folder, _manifest(folder))), content_type="application/json")

    @app.get("/v1/models/<name>/versions/<int:number>/plots/<plot>")
    def _plot(name: str, number: int, plot: str) -> Response:
        folder = version_folder(service, name, number)
        for path in _plots(folder):
            if path.name == plot and path.stat().st_size <= _MOST_PLOT_BYTES:
                headers = {"X-Content-Type-Options": "nosniff"}
                return Response(path.read_bytes(), content_type="image/png", headers=headers)
        raise NotFound(f"version {number} of {name!r} has no plot {plot[:100]!r}")


def version_folder(service: Service, name: str, number: int) -> Path:
    """The version's folder. Raises `NotFound` where it is not on this machine, `ModelNotFound` for unknown ones."""
    service.models.versions(name, number)
    root = service.settings.models
    if root is None:
        raise NotFound("this server has no cards: MILLRACE_SERVING_MODELS names no model repository")
    return root / name / str(number)


def _manifest(folder: Path) -> Manifest:
    try:
        found = manifest.read(folder)
    except ManifestError as error:
        raise NotFound("the manifest of this version cannot be read") from error
    if found is None:
        raise NotFound("this version has no manifest.json, so it has no card")
    return found


def _plots(folder: Path) -> list[Path]:
    """The plots in the folder, links left out: a link may lead anywhere."""
    plots = folder / "plots"
    return [] if plots.is_symlink() else sorted(path for path in plots.glob("*.png") if not path.is_symlink())


def _shown(folder: Path, found: Manifest) -> schemas.Card:
    files = {name: (folder / name) for name in found.files}
    return schemas.Card(
        description=found.description,
        scores=found.scores,
        limits=list(found.limits),
        training=found.training,
        data=found.data,
        licences=found.licences,
        files={name: path.stat().st_size for name, path in files.items() if path.is_file()},
        plots=[path.name for path in _plots(folder)],
        example=found.example,
    )
