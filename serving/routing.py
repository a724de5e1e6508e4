"""Paths of the hot verbs: what a POST to each asks for.

They are TensorFlow Serving's `:predict`, `:classify` and `:regress`, and the Open Inference Protocol's `/infer`.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from serving.protocols.oip import rest as oip
from serving.protocols.tfs import rest as tfs
from serving.protocols.verb import Verb

_MAX_REMEMBERED_CHARACTERS = 512
_VERB = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,99})|/labels/([^/:]+))?:(predict|classify|regress)/?")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d{1,99}))?/infer/?")
_TENSORFLOW_VERBS = {"predict": tfs.PREDICT, "classify": tfs.CLASSIFY, "regress": tfs.REGRESS}


class Target(NamedTuple):
    """What a path names: a verb and a model, and perhaps its version or a label."""

    verb: Verb
    model: str
    version: int | None
    label: str | None


def target(path: str) -> Target | None:
    """What a POST to the path asks for, None where it is none of the hot verbs."""
    return _remembered(path) if len(path) <= _MAX_REMEMBERED_CHARACTERS else _target(path)


def _target(path: str) -> Target | None:
    if match := _VERB.fullmatch(path):
        name, version, label, verb = match.groups()
        return Target(_TENSORFLOW_VERBS[verb.lower()], name, _number(version), label)
    if match := _INFER.fullmatch(path):
        name, version = match.groups()
        return Target(oip.INFER, name, _number(version), None)
    return None


_remembered = lru_cache(maxsize=1024)(_target)


def _number(version: str | None) -> int | None:
    return None if version is None else int(version)
