"""`saved_model.pb`: which of its graphs is served, and what is done before it answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from worker.backends.base import LoadError
from worker.backends.texts import place

FILE_NAME = "saved_model.pb"
_SERVE, _GPU, _TPU = "serve", "gpu", "tpu"
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")  # of TensorFlow 1, the newer name first
_ASSETS_COLLECTION = "saved_model_assets"


def read_graph(folder: Path, *, for_gpu: bool) -> tuple[Any, list[str]]:
    """The MetaGraphDef of the folder's file to serve, and notes on the choice. Raises `LoadError`."""
    where = place(folder, FILE_NAME)
    try:
        graphs = saved_model_pb2.SavedModel.FromString((folder / FILE_NAME).read_bytes()).meta_graphs
    except DecodeError as error:
        raise LoadError(f"{where} is no SavedModel, or a damaged one") from error
    except OSError as error:
        raise LoadError(f"{where}: {error.strerror}") from error
    if not graphs:
        raise LoadError(f"{where} holds no graph")
    chosen = min(graphs, key=lambda graph: _rank(_tags(graph), for_gpu=for_gpu))
    tags = _tags(chosen)
    has_serve = _SERVE in tags
    if not has_serve and tags and len(graphs) > 1:
        raise LoadError(
            f"{where} has graphs with the tags {_listed(graphs)}, and none is tagged {_SERVE!r}; export one"
        )
    notes = [] if has_serve else [f"No graph of the file is tagged {_SERVE!r}; the one with the tags {tags} is served."]
    if has_serve and len(graphs) > 1:
        notes = [f"Of the file's graphs with the tags {_listed(graphs)} the one with {tags} is served."]
    return chosen, notes


def _tags(graph: Any) -> list[str]:
    return sorted(graph.meta_info_def.tags)


def _listed(graphs: Sequence[Any]) -> str:
    return ", ".join(str(_tags(graph)) for graph in graphs)


def _rank(tags: list[str], *, for_gpu: bool) -> tuple[bool, bool, bool, int]:
    """Orders graphs by their tags, the one to serve first: that for this kind of device, else the plainest."""
    return _SERVE not in tags, _TPU in tags, (_GPU in tags) != for_gpu, len(tags)


def init_operation(graph: Any) -> str:
    """The name of the operation that fills tables and the like, "" where there is none."""
    if _INIT_SIGNATURE in graph.signature_def:
        return str(graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name)
    for name in _INIT_COLLECTIONS:
        if nodes := graph.collection_def[name].node_list.value if name in graph.collection_def else ():
            return str(nodes[0])
    return ""


def assets(graph: Any, folder: Path) -> dict[str, str]:
    """The path of each file in `assets/`, by the name of the tensor that takes it."""
    definitions = list(graph.asset_file_def)
    if not definitions and _ASSETS_COLLECTION in graph.collection_def:
        for packed in graph.collection_def[_ASSETS_COLLECTION].any_list.value:
            definitions.append(meta_graph_pb2.AssetFileDef())
            packed.Unpack(definitions[-1])
    return {asset.tensor_info.name: str(folder / "assets" / asset.filename) for asset in definitions}
