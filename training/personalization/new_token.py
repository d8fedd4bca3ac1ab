"""A new word in a model's vocabulary, whose embedding alone is trained (Gal et al. 2023, textual inversion)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rid.training.personalization.pipeline import TextToImage


@dataclass(frozen=True)
class NewToken:
    """The row of the embedding table that may change.

    Attributes:
        table: (V, E) parameter of all words' embeddings; only the last row is ever changed.
        before: (V - 1, E) the other rows as they were.
    """

    table: Tensor
    before: Tensor

    @torch.no_grad()
    def restore_others(self) -> None:
        """Undoes what an optimiser's weight decay or momentum did to the other words."""
        self.table[:-1] = self.before


def add_token(model: TextToImage, token: str, initial_word: str) -> NewToken:
    """Adds a word to a model's tokenizer and text encoder, starting from the embedding of another word.

    Args:
        model: changed in place.
        token: the new word.
        initial_word: a word of the vocabulary; of several pieces the last is taken.

    Raises:
        ValueError: if the vocabulary has the word already.
    """
    if model.tokenizer.add_tokens([token]) != 1:
        raise ValueError(f"the vocabulary has the word {token!r} already: choose another token for the person")
    start = model.tokenizer(initial_word, add_special_tokens=False).input_ids[-1]
    model.text_encoder.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
    table = model.text_encoder.get_input_embeddings().weight  # (V, E)
    with torch.no_grad():
        table[-1] = table[start]
    table.requires_grad_(True)
    return NewToken(table, table[:-1].detach().clone())
