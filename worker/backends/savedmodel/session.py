"""A SavedModel's graph in a session, set up in the order of TensorFlow Serving's own loader."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import tensorflow as tf

from worker.backends.base import Device
from worker.backends.savedmodel import devices
from worker.backends.savedmodel import file as saved_model


def open_session(folder: Path, graph: Any, device: Device) -> Any:
    """A session with the MetaGraphDef's graph: variables restored from the folder, tables filled from its assets.

    As in TensorFlow Serving, the file's Python objects are not rebuilt: what a graph of any version of TensorFlow needs
    in order to run is in the graph. Raises `ValueError` and `tf.errors.OpError` for a graph that cannot be set up.
    """
    imported = tf.Graph()
    with imported.as_default(), imported.device(devices.place(device) if device.gpu else None):
        tf.import_graph_def(graph.graph_def, name="", producer_op_list=_operators(graph))
        placed = tf.no_op()
    session = tf.compat.v1.Session(graph=imported, config=_config(device))
    try:
        session.run(placed)
    except tf.errors.InvalidArgumentError:  # some operator is for other devices; no signature may need it
        session.close()
        session = tf.compat.v1.Session(graph=imported, config=_config(device, only_needed=True))
    feeds = saved_model.assets(graph, folder)
    _restore(session, graph.saver_def, folder, feeds)
    if name := saved_model.init_operation(graph):
        session.run(imported.as_graph_element(name), feeds)
    return session


def unset_variables(session: Any, names: Collection[str]) -> list[str]:
    """Those of the variables' nodes that hold nothing, sorted."""
    nodes = sorted(names)
    with session.graph.as_default():
        are_set = [_is_set(session.graph.get_operation_by_name(name)) for name in nodes]
    return [name for name, is_set in zip(nodes, session.run(are_set), strict=True) if not is_set]


def _is_set(variable: Any) -> Any:
    if variable.type == "VarHandleOp":
        return tf.raw_ops.VarIsInitializedOp(resource=variable.outputs[0])
    return tf.raw_ops.IsVariableInitialized(ref=variable.outputs[0])


def checkpoint(folder: Path) -> Path:
    """The file that says where the variables are in the version's folder."""
    return folder / "variables" / "variables.index"


def _operators(graph: Any) -> Any:
    """The operators as the file's writer knew them: attributes that this TensorFlow lacks may then be left out."""
    operators = graph.meta_info_def.stripped_op_list
    return operators if operators.op else None


def _restore(session: Any, saver: Any, folder: Path, feeds: dict[str, str]) -> None:
    index = checkpoint(folder)
    if saver.restore_op_name and index.exists():
        operation = session.graph.as_graph_element(saver.restore_op_name)
        session.run(operation, {**feeds, saver.filename_tensor_name: str(index.with_suffix(""))})


def _config(device: Device, *, only_needed: bool = False) -> Any:
    """TensorFlow has one pool of threads for all models of a process, whose size is settled by the first of them.

    `only_needed` places no operator that is not needed; functions are then built by their first run.
    """
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=device.threads,
        allow_soft_placement=True,  # a graph may name devices of the machine that wrote it
        device_count={"GPU": 0} if device.kind == "cpu" else {},
        graph_options=tf.compat.v1.GraphOptions(place_pruned_graph=only_needed),
        gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),
    )
