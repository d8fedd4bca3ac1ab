"""The owner's word on data mining: the PLUS property DataMining, which a policy may set and never loosens.

PLUS LDF 2.0.1 and IPTC Photo Metadata Standard 2023.1: plus:DataMining holds the URI of one vocabulary entry.
"""

from __future__ import annotations

NAMESPACE = "http://ns.useplus.org/ldf/xmp/1.0/"
NAME = "DataMining"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"

OPEN = ("DMI-UNSPECIFIED", "DMI-ALLOWED")
# Each prohibits all that the one before it does. What else the vocabulary has refers to terms that only people read.
RISING = (
    "DMI-PROHIBITED-GENAIMLTRAINING",
    "DMI-PROHIBITED-AIMLTRAINING",
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
    "DMI-PROHIBITED",
)


def tightened(owner: list[str], wanted: str) -> str | None:
    """Returns the URI to write, or None where what the owner set stays.

    Args:
        owner: the values that the photo has; several contradict each other, and then stay.
        wanted: an entry of RISING.
    """
    if len(owner) > 1:
        return None
    said = owner[0].removeprefix(VOCABULARY) if owner else OPEN[0]
    if said in OPEN or (said in RISING and RISING.index(said) < RISING.index(wanted)):
        return VOCABULARY + wanted
    return None
