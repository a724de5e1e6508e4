"""All verbs of all protocols, by name: how the processes of `serving.offload` find the one that is asked for."""

from serving.protocols.oip import messages as oip_messages
from serving.protocols.oip import rest as oip
from serving.protocols.tfs import messages as tfs_messages
from serving.protocols.tfs import rest as tfs
from serving.protocols.verb import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        oip.INFER,
        oip_messages.INFER,
        tfs.PREDICT,
        tfs.CLASSIFY,
        tfs.REGRESS,
        tfs_messages.PREDICT,
        tfs_messages.PREDICT_AS_CONTENT,
        tfs_messages.CLASSIFY,
        tfs_messages.REGRESS,
        tfs_messages.TASK,
    )
}
