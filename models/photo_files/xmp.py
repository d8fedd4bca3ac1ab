"""XMP packets: properties are read, removed and added in place, so that everything else keeps its bytes.

ISO 16684-1: a packet is RDF/XML. A property is an attribute or a child of an rdf:Description inside rdf:RDF. Packets
come from anywhere: one with a document type is not read, since only hostile ones have entities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + RDF.encode() + b'"></rdf:RDF></x:xmpmeta>'
    b'<?xpacket end="w"?>'
)
# Possessive, and begun where a run begins: the time stays linear whatever the packet holds.
TAG = re.compile(rb"<([^\s/>]++)((?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+)>")
END_TAG = re.compile(rb"</[^>]*+>")
ATTRIBUTE = re.compile(rb"(?<!\s)\s++([^\s=]++)\s*+=\s*+(\"[^\"]*+\"|'[^']*+')")
PACKET_END = b"<?xpacket end="


class UnreadablePacket(ValueError):
    """An XMP packet that is not well-formed, has a document type or holds no RDF."""


@dataclass(frozen=True)
class Property:
    """A property to be written; its prefix is declared where it is written."""

    prefix: str
    namespace: str
    name: str
    value: str


@dataclass
class _Found:
    """A property of a packet, and the bytes that it takes."""

    namespace: str
    name: str
    parts: list[str]  # of its value
    start: int
    end: int


@dataclass
class _Description:
    start: int
    end: int = -1
    text: bool = False
    found: list[_Found] = field(default_factory=list)


class Packet:
    """A packet that was parsed."""

    def __init__(self, data: bytes) -> None:
        """Parses a packet in any encoding that extends ASCII; zeros at its end are not part of it.

        Raises:
            UnreadablePacket: see there.
        """
        self.data = data.rstrip(b"\x00")
        self._descriptions: list[_Description] = []
        self._about = b'""'
        self._rdf: tuple[int, int] | None = None  # the end tag of rdf:RDF, or its one tag if it is empty
        self._open: list[tuple[str, str, int]] = []  # namespace, name and start of the open elements
        self._depth = -1  # of rdf:RDF while it is open
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.namespace_prefixes = parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse
        self._parser = parser
        try:
            parser.Parse(self.data, True)
        except (expat.ExpatError, UnicodeError, LookupError) as error:
            raise UnreadablePacket("the XMP packet is not well-formed") from error
        finally:
            del self._parser
        if self._rdf is None:
            raise UnreadablePacket("the XMP packet holds no RDF")

    def values(self, namespace: str, name: str) -> list[str]:
        """Returns the values of a simple property, stripped; more than one if the packet contradicts itself."""
        found = (one for description in self._descriptions for one in description.found)
        return ["".join(one.parts).strip() for one in found if (one.namespace, one.name) == (namespace, name)]

    def edited(self, drop: Callable[[str, str], bool], add: Iterable[Property]) -> bytes:
        """Returns the packet without some properties and with others, in one description of their own.

        White space in front of the packet's end shrinks by what is added.

        Args:
            drop: whether a property, given its namespace and name, goes.
            add: what is added.
        """
        cuts: list[tuple[int, int]] = []
        for description in self._descriptions:
            gone = [one for one in description.found if drop(one.namespace, one.name)]
            if gone and len(gone) == len(description.found) and not description.text:
                cuts.append((description.start, description.end))
            else:
                cuts += [(one.start, one.end) for one in gone]
        assert self._rdf is not None, "the constructor looked"
        start, end = self._rdf
        tag = self.data[start:end]
        new = self._description(tuple(add))
        if tag.startswith(b"</"):
            changes = [*((cut, b"") for cut in cuts), ((start, start), new)]
        else:
            name = tag[1:].split(None, 1)[0].rstrip(b"/>")
            whole = tag[:-2].rstrip() + b">" + new + b"</" + name + b">" if new else tag
            changes = [((start, end), whole)]
        out, at = bytearray(), 0
        for (first, last), text in sorted(changes):
            out += self.data[at:first] + text
            at = last
        out += self.data[at:]
        return _less_padding(bytes(out), len(out) - len(self.data))

    def _description(self, add: tuple[Property, ...]) -> bytes:
        if not add:
            return b""
        spaces = dict.fromkeys((one.prefix, one.namespace) for one in add)
        parts = [f"xmlns:{prefix}={quoteattr(namespace)}" for prefix, namespace in spaces]
        parts += [f"{one.prefix}:{one.name}={quoteattr(one.value)}" for one in add]
        head = b'<rdf:Description xmlns:rdf="' + RDF.encode() + b'" rdf:about=' + self._about
        return b" ".join([head, *(part.encode("ascii", "xmlcharrefreplace") for part in parts)]) + b"/>"

    # ------------------------------------------------------------------------------------------------ the parser

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        namespace, name, _ = _split(qualified)
        at = self._parser.CurrentByteIndex
        depth = len(self._open)
        self._open.append((namespace, name, at))
        if (namespace, name) == (RDF, "RDF") and self._rdf is None and self._depth < 0:
            self._depth = depth
        elif self._depth >= 0 and depth == self._depth + 1 and (namespace, name) == (RDF, "Description"):
            self._descriptions.append(self._opened(at, attributes))
        elif depth == self._depth + 2 and self._in_description():
            # RDF may give a value that is a URI as an attribute of the property.
            self._descriptions[-1].found.append(_Found(namespace, name, [_resource(attributes)], at, -1))

    def _opened(self, at: int, attributes: dict[str, str]) -> _Description:
        """A description whose start tag is at `at`, with its properties that are attributes."""
        description = _Description(at)
        tag = TAG.match(self.data, at)
        if tag is None:
            raise UnreadablePacket("the XMP packet's encoding does not extend ASCII")
        written = {found[1]: found for found in ATTRIBUTE.finditer(self.data, tag.end(1), tag.end())}
        for qualified, value in attributes.items():
            namespace, name, prefix = _split(qualified)
            attribute = written.get((f"{prefix}:{name}" if prefix else name).encode())
            if attribute is None:
                raise UnreadablePacket("the XMP packet's encoding does not extend ASCII")
            if (namespace, name) == (RDF, "about"):
                self._about = self._about if self._descriptions else attribute[2]
            else:
                description.found.append(_Found(namespace, name, [value], attribute.start(), attribute.end()))
        return description

    def _end(self, _: str) -> None:
        in_description = self._in_description()
        _, _, start = self._open.pop()
        own = len(self._open) - self._depth
        if self._depth < 0 or own > 2:
            return
        first, last = self._closed(start)
        if own == 0:
            self._rdf = (first, last)
            self._depth = -1
        elif in_description and own == 1:
            self._descriptions[-1].end = last
        elif in_description:
            self._descriptions[-1].found[-1].end = last

    def _closed(self, start: int) -> tuple[int, int]:
        """Finds the end tag of an element that began at `start`, or its only tag if it is empty."""
        at = self._parser.CurrentByteIndex
        opening = TAG.match(self.data, start)
        closing = opening if opening and opening[0].endswith(b"/>") else END_TAG.match(self.data, at)
        if closing is None:
            raise UnreadablePacket("the XMP packet's encoding does not extend ASCII")
        return closing.span()

    def _text(self, text: str) -> None:
        if not self._in_description():
            return
        if len(self._open) == self._depth + 2:
            self._descriptions[-1].text |= not text.isspace()
        else:
            self._descriptions[-1].found[-1].parts.append(text)

    def _in_description(self) -> bool:
        """Returns whether the parser is in a description that stands in rdf:RDF itself."""
        own = self._depth + 1
        return self._depth >= 0 and len(self._open) > own and self._open[own][:2] == (RDF, "Description")

    def _refuse(self, *_: object) -> None:
        raise UnreadablePacket("the XMP packet has a document type")


def _split(qualified: str) -> tuple[str, str, str]:
    """Namespace, local name and prefix, as expat joins them."""
    parts = qualified.split(" ")
    if len(parts) == 1:
        return "", parts[0], ""
    return parts[0], parts[1], parts[2] if len(parts) > 2 else ""


def _resource(attributes: dict[str, str]) -> str:
    """The attribute rdf:resource under whatever prefix; "" if there is none."""
    return next((value for key, value in attributes.items() if _split(key)[:2] == (RDF, "resource")), "")


def _less_padding(packet: bytes, excess: int) -> bytes:
    """Takes up to `excess` bytes of white space from in front of the packet's end; one stays."""
    end = packet.rfind(PACKET_END)
    spare = end - len(packet[:end].rstrip()) - 1
    if end < 0 or excess <= 0 or spare <= 0:
        return packet
    return packet[: end - min(excess, spare)] + packet[end:]
