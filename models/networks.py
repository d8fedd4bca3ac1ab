"""The architectures of defenders: by name, from a config.json, and what differs between them."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

from rid.models.budget import BudgetRange
from rid.models.convolutional import CONVOLUTIONAL_SIZES, ConvolutionalDefender, ConvolutionalSize
from rid.models.defender import SIZES as TRANSFORMER_SIZES
from rid.models.defender import Defender, DefenderSize, fold

Network: TypeAlias = Defender | ConvolutionalDefender
NetworkSize: TypeAlias = DefenderSize | ConvolutionalSize

SIZES: dict[str, NetworkSize] = {**TRANSFORMER_SIZES, **CONVOLUTIONAL_SIZES}


def make_network(size: NetworkSize, budget: BudgetRange | None = None) -> Network:
    """Returns a fresh network of a size."""
    if isinstance(size, ConvolutionalSize):
        return ConvolutionalDefender(size, budget)
    return Defender(size, budget)


def read_size(architecture: dict[str, Any]) -> NetworkSize:
    """Reads the architecture of a config.json.

    Raises:
        ValueError: if it is none of this version.
    """
    if architecture.get("class") == "ConvolutionalDefender":
        return ConvolutionalSize.from_json(architecture)
    return DefenderSize.from_json(architecture)


def fold_network(network: Network) -> Network:
    """Returns an equal network with constants folded into its weights, in evaluation mode."""
    if isinstance(network, Defender):
        return fold(network)
    return copy.deepcopy(network).eval()
