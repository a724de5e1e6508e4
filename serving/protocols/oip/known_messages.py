"""Messages of inference that differ from one before only in their elements and their id: these are not read again.

A client sends the same message again and again, with other tensors in it. Where the elements are of a fixed size, such
messages have the same length, and the same bytes at the same places: the fields with the elements' lengths among them.
So it is enough to compare these bytes; what they say is known.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from millrace.protocol.tensors import BYTES
from millrace.rpc.counting import top_fields
from serving.protocols.oip.rest import Document

_MOST_FORMS = 1024
_FORMS_OF_A_LENGTH = 4
_MOST_FIXED_BYTES = 1024  # of a form
_MOST_FIELDS = 64

Span = tuple[int, int]


class Described(NamedTuple):
    """An input without its values; `elements` is how many there must be."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int


class Form(NamedTuple):
    """What messages of one form say: the model, its version as text, the request without its inputs' elements.

    `fixed` are the bytes that make the form, by where they are; `raw` and `identity` are where the rest is.
    """

    fixed: tuple[tuple[int, int, bytes], ...]
    raw: tuple[Span, ...]
    identity: Span | None
    model: str
    version: str
    document: Document
    inputs: tuple[Described, ...]


class KnownMessage(NamedTuple):
    """A message of a known form: its elements, as views of its bytes, and its id."""

    form: Form
    raw: Sequence[memoryview]
    id: str


class KnownMessages:
    """Remembers forms, `count` of them, a bounded number. `raw` and `identity` are the fields that may differ."""

    def __init__(self, raw: int, identity: int) -> None:
        self._raw = raw
        self._identity = identity
        self._forms: dict[int, list[Form]] = {}
        self.count = 0

    def find(self, data: bytes | memoryview) -> KnownMessage | None:
        """The message in the bytes, None where its form is not known."""
        for form in self._forms.get(len(data), ()):
            for start, end, content in form.fixed:
                if data[start:end] != content:
                    break
            else:
                return _known(form, data)
        return None

    def remember(
        self, data: bytes | memoryview, model: str, version: str, document: Document, inputs: Sequence[Described]
    ) -> None:
        """Remember the form of a message that was read, and what it says."""
        if any(described.datatype == BYTES for described in inputs):  # whose elements have no fixed size
            return
        fields = top_fields(data, _MOST_FIELDS) or []
        raw = tuple([(content, end) for number, _, content, end in fields if number == self._raw])
        identities = [(content, end) for number, _, content, end in fields if number == self._identity]
        spans = [*raw, *identities]
        is_small = len(data) - sum([end - start for start, end in spans]) <= _MOST_FIXED_BYTES
        if len(raw) != len(inputs) or len(identities) > 1 or not is_small:
            return
        fixed = _between(spans, data)
        self._add(len(data), Form(fixed, raw, next(iter(identities), None), model, version, document, tuple(inputs)))

    def _add(self, length: int, form: Form) -> None:
        if self.count >= _MOST_FORMS:
            self._forms.clear()
            self.count = 0
        forms = self._forms.setdefault(length, [])
        if len(forms) < _FORMS_OF_A_LENGTH:
            forms.append(form)
            self.count += 1
        else:
            forms[:] = [form, *forms[:-1]]


def _between(spans: Collection[Span], data: bytes | memoryview) -> tuple[tuple[int, int, bytes], ...]:
    """The bytes between the spans, and where they are."""
    edges = [(0, 0), *sorted(spans), (len(data), len(data))]
    return tuple([(end, start, bytes(data[end:start])) for (_, end), (start, _) in pairwise(edges) if end < start])


def _known(form: Form, data: bytes | memoryview) -> KnownMessage | None:
    """None where the id is none, so that whoever reads the message says so."""
    identity = ""
    if form.identity:
        try:
            identity = str(data[slice(*form.identity)], "utf-8")
        except UnicodeDecodeError:
            return None
        if not identity.isprintable():
            return None
    view = memoryview(data)
    return KnownMessage(form, [view[start:end] for start, end in form.raw], identity)
