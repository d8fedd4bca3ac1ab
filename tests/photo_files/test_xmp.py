"""XMP packets are changed in place: what is not asked for keeps its bytes."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rid.models.data_mining import NAME, NAMESPACE, OPEN, RISING, VOCABULARY, tightened
from rid.models.photo_files.marks import MARK_NAMESPACE, Mark, read_mark, with_mark
from rid.models.photo_files.metadata import clean_xmp
from rid.models.photo_files.xmp import EMPTY, RDF, Packet, Property, UnreadablePacket

MARK = Mark("a" * 64, 6, "b" * 64)
OTHER = Mark("c" * 64, 16, "d" * 64)
DC = "http://purl.org/dc/elements/1.1/"


def packet(inside: str, *, padding: int = 0, about: str = "") -> bytes:
    """A packet as editors write it, with one description around `inside`."""
    text = (
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>\n<x:xmpmeta xmlns:x='adobe:ns:meta/'>\n"
        f" <rdf:RDF xmlns:rdf='{RDF}'>\n  <rdf:Description rdf:about='{about}' xmlns:dc='{DC}'\n"
        f"    xmlns:plus='{NAMESPACE}' xmlns:m='{MARK_NAMESPACE}' {inside}\n </rdf:RDF>\n</x:xmpmeta>"
    )
    return (text + " " * padding + "<?xpacket end='w'?>").encode()


PLAIN = packet("dc:format='image/jpeg'>Zoë &amp; all</rdf:Description>")


def values(data: bytes) -> list[str]:
    return Packet(data).values(NAMESPACE, NAME)


def test_a_mark_is_added_read_and_taken_away_without_another_byte() -> None:
    marked = with_mark(PLAIN, MARK)
    assert read_mark(marked) == MARK and read_mark(PLAIN) is None
    assert marked.startswith(PLAIN[: PLAIN.index(b"</rdf:RDF>")])
    assert with_mark(marked, None) == PLAIN
    assert read_mark(with_mark(marked, OTHER)) == OTHER
    assert with_mark(with_mark(marked, OTHER), None) == PLAIN


def test_a_photo_without_xmp_gets_a_packet_of_its_own() -> None:
    marked = with_mark(b"", MARK)
    assert read_mark(marked) == MARK and with_mark(marked, None) == EMPTY
    assert with_mark(b"", None) == b"" and with_mark(PLAIN, None) == PLAIN


@pytest.mark.parametrize(
    "inside",
    [
        f"m:Defender='{'a' * 64}' m:BudgetLevels=\"6\"\n m:PixelsSha256 = '{'b' * 64}'/>",
        f"dc:format='x'><m:Defender>{'a' * 64}</m:Defender><m:BudgetLevels>6</m:BudgetLevels>"
        f"<m:PixelsSha256>\n{'b' * 64}</m:PixelsSha256></rdf:Description>",
        f"dc:x='m:Defender=\"no\"' m:Defender='{'a' * 64}' m:BudgetLevels='6'><m:PixelsSha256>{'b' * 64}"
        "</m:PixelsSha256><dc:title>kept</dc:title></rdf:Description>",
    ],
)
def test_a_mark_that_an_editor_rewrote_is_still_read_and_replaced(inside: str) -> None:
    old = packet(inside)
    assert read_mark(old) == MARK
    new = with_mark(old, OTHER)
    assert read_mark(new) == OTHER and b"a" * 64 not in new and b"b" * 64 not in new
    assert ("kept" not in inside) or b"<dc:title>kept</dc:title>" in new
    assert ("dc:x" not in inside) or b"dc:x='m:Defender=\"no\"'" in new


@pytest.mark.parametrize(
    "inside",
    [
        f"m:Defender='{'a' * 64}' m:BudgetLevels='6'/>",
        f"m:Defender='{'A' * 64}' m:BudgetLevels='6' m:PixelsSha256='{'b' * 64}'/>",
        f"m:Defender='{'a' * 64}' m:BudgetLevels='0' m:PixelsSha256='{'b' * 64}'/>",
        f"m:Defender='{'a' * 64}' m:BudgetLevels='6' m:PixelsSha256='{'b' * 64}'>"
        f"<m:PixelsSha256>{'c' * 64}</m:PixelsSha256></rdf:Description>",
        f"><dc:creator><rdf:Description m:Defender='{'a' * 64}' m:BudgetLevels='6' m:PixelsSha256='{'b' * 64}'/>"
        "</dc:creator></rdf:Description>",
    ],
)
def test_a_mark_that_is_not_whole_or_contradicts_itself_is_none(inside: str) -> None:
    assert read_mark(packet(inside)) is None


def test_padding_gives_way_so_that_a_packet_keeps_its_length() -> None:
    roomy = packet("dc:format='x'/>", padding=2000)
    assert len(with_mark(roomy, MARK)) == len(roomy)
    tight = packet("dc:format='x'/>", padding=20)
    assert 250 < len(with_mark(tight, MARK)) - len(tight) < 500


@pytest.mark.parametrize("padding", [0, 1, 2, 50, 10_000])
def test_padding_gives_way_to_the_byte_and_one_blank_stays(padding: int) -> None:
    """The rest of a packet is as it was, blanks elsewhere included; a packet that shrinks gets no padding back."""
    inside = "dc:format='a   b'> \n </rdf:Description><!-- <?xpacket end= of a template    <?xpacket end= -->"
    whole = packet(inside, padding=padding)
    marked = with_mark(whole, MARK)
    tail = b"</rdf:RDF>\n</x:xmpmeta>"
    head, end = whole[: whole.rindex(tail)], b"<?xpacket end='w'?>"
    added = marked[len(head) : marked.rindex(tail)]
    kept = padding if padding < 2 else max(1, padding - len(added))
    assert marked == head + added + tail + b" " * kept + end
    assert with_mark(marked, None) == head + tail + b" " * kept + end


def test_descriptions_of_one_packet_are_about_the_same_thing() -> None:
    assert with_mark(packet("dc:format='x'/>", about="uuid:1&amp;2"), MARK).count(b"rdf:about='uuid:1&amp;2'") == 2


@pytest.mark.parametrize(
    "whole",
    [
        f'<r:RDF xmlns:r="{RDF}"/>',
        f'<r:RDF xmlns:r="{RDF}" />',
        f'<RDF xmlns="{RDF}"><Description r:about="" xmlns:r="{RDF}"/></RDF>',
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Bag><rdf:li>text</rdf:li></rdf:Bag></rdf:RDF>',
    ],
)
def test_unusual_forms_of_rdf(whole: str) -> None:
    marked = with_mark(whole.encode(), MARK)
    assert read_mark(marked) == MARK
    assert read_mark(with_mark(marked, None)) is None


@pytest.mark.parametrize("filler", [" ", "a", "\n", "A" * 1023 + " ", "&#10;", "<b/>", "x='", "/9j/ "])
def test_long_packets_take_time_in_proportion(filler: str) -> None:
    def seconds(length: int) -> float:
        many = filler * (length // len(filler))
        safe = "" if "'" in filler or "<" in filler else many
        whole = packet(f"dc:format='{safe}' {many if filler.isspace() else ''}><dc:a>{many}</dc:a></rdf:Description>")
        began = time.perf_counter()
        clean_xmp(whole)
        with contextlib.suppress(UnreadablePacket):
            with_mark(whole, MARK)
        return time.perf_counter() - began

    seconds(1000)
    assert seconds(800_000) < 5  # what grows with the square takes minutes


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"text",
        b"<x/>",
        b"<a><b></a>",
        b"<rdf:RDF/>",
        b"<x>\xff</x>",
        PLAIN[:-60],
        f'<!DOCTYPE a [<!ENTITY b "c">]><rdf:RDF xmlns:rdf="{RDF}">&b;</rdf:RDF>'.encode(),
        f'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x"><rdf:RDF xmlns:rdf="{RDF}"/>'.encode(),
        f'<rdf:RDF xmlns:rdf="{RDF}"/>'.encode("utf-16"),
    ],
)
def test_packets_that_cannot_be_changed_safely_are_refused(bad: bytes) -> None:
    with pytest.raises(UnreadablePacket):
        Packet(bad)
    assert read_mark(bad + MARK_NAMESPACE.encode()) is None


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 30)), max_size=4
    )
)
def test_damaged_packets_are_refused_or_changed_as_asked(changes: list[tuple[float, bytes, int]]) -> None:
    data = with_mark(PLAIN, OTHER, "DMI-PROHIBITED")
    for place, text, gone in changes:
        at = int(place * len(data))
        data = data[:at] + text + data[at + gone :]
    clean_xmp(data)
    with contextlib.suppress(UnreadablePacket):
        marked = with_mark(data, MARK, "DMI-PROHIBITED")
        assert read_mark(marked) == MARK and read_mark(with_mark(marked, None)) is None


def test_a_packet_in_latin_1_keeps_its_encoding() -> None:
    text = f"<?xml version='1.0' encoding='iso-8859-1'?><rdf:RDF xmlns:rdf='{RDF}'><rdf:Description rdf:about='Zoë'/>"
    marked = with_mark((text + "</rdf:RDF>").encode("latin-1"), MARK)
    assert read_mark(marked) == MARK and marked.count("rdf:about='Zoë'".encode("latin-1")) == 2


def test_values_are_escaped() -> None:
    data = Packet(EMPTY).edited(lambda *_: False, [Property("p", "urn:p/", "x", "<a & \"b\" 'c' Zoë>")])
    assert Packet(data).values("urn:p/", "x") == ["<a & \"b\" 'c' Zoë>"]


# ------------------------------------------------------------------------------------------------ data mining


@pytest.mark.parametrize("wanted", RISING)
def test_data_mining_is_only_ever_tightened(wanted: str) -> None:
    assert tightened([], wanted) == VOCABULARY + wanted
    for said in OPEN:
        assert tightened([VOCABULARY + said], wanted) == VOCABULARY + wanted
    for said in RISING:
        looser = RISING.index(said) < RISING.index(wanted)
        assert tightened([VOCABULARY + said], wanted) == (VOCABULARY + wanted if looser else None)
    for said in ("DMI-PROHIBITED-SEECONSTRAINT", "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR", "my own words", ""):
        assert tightened([said], wanted) is None
    assert tightened([OPEN[0], OPEN[1]], wanted) is None


@pytest.mark.parametrize(
    "inside",
    [
        f"plus:DataMining='{VOCABULARY}DMI-ALLOWED'/>",
        f"><plus:DataMining>{VOCABULARY}DMI-ALLOWED</plus:DataMining></rdf:Description>",
        f"><plus:DataMining rdf:resource='{VOCABULARY}DMI-ALLOWED'/></rdf:Description>",
        "dc:format='x'/>",
    ],
)
def test_the_word_on_data_mining_is_written_once(inside: str) -> None:
    new = with_mark(packet(inside), MARK, "DMI-PROHIBITED-AIMLTRAINING")
    assert values(new) == [VOCABULARY + "DMI-PROHIBITED-AIMLTRAINING"]
    assert values(with_mark(new, None, "DMI-PROHIBITED")) == [VOCABULARY + "DMI-PROHIBITED"]
    assert read_mark(new) == MARK
    assert with_mark(new, MARK, "DMI-PROHIBITED-AIMLTRAINING").count(b"DataMining") == new.count(b"DataMining")


def test_what_the_owner_prohibits_stays_as_it_was_written() -> None:
    strict = packet(f"plus:DataMining='{VOCABULARY}DMI-PROHIBITED'/>")
    assert with_mark(strict, None, "DMI-PROHIBITED-AIMLTRAINING") == strict
    elsewhere = f"<plus:DataMining>{VOCABULARY}DMI-PROHIBITED</plus:DataMining>".encode()
    assert values(with_mark(PLAIN, MARK, "DMI-PROHIBITED-AIMLTRAINING", elsewhere=elsewhere)) == []
