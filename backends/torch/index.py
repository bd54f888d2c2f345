"""An approximate index of the keys of a store: which slots are best, at less than the cost of all scores.

It knows slots and nothing else: what a read makes of its rows, and their gradients, come from the rows themselves. It
is made from the rows, follows what is written, and is no part of a state. The text of this file is part of every
exported model; faiss is imported when an index is built.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.torch.searches import Lookups, exact, order_of

LEAST = 1_000
"""Items below which all scores are made: an index of lists needs some to learn where its lists lie."""
ASKED = 64
"""Stored keys whose neighbours are looked for, to measure recall."""
ENOUGH, LOW = 0.9, 0.8
"""The recall that `probes: 0` looks for, with up to a quarter of the lists; and that below which a warning says so."""


class Faiss:
    """An inverted file of whole vectors (Johnson et al. 2017, arXiv 1702.08734): they stand in lists, each with those
    nearest to one of `lists` centres; a search looks at the lists of the `probes` centres nearest to a query."""

    def __init__(self, vectors: Tensor, lists: int, *, inner: bool) -> None:
        faiss: Any = import_module("faiss")
        self.kit, width = faiss, vectors.shape[1]
        self.quantizer = faiss.IndexFlatIP(width) if inner else faiss.IndexFlatL2(width)
        measure = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        self.file: Any = faiss.IndexIVFFlat(self.quantizer, width, lists, measure)
        self.file.cp.seed = 1
        self.file.train(vectors[:: max(1, len(vectors) // (50 * lists))].contiguous().numpy())
        self.file.set_direct_map_type(faiss.DirectMap.Hashtable)
        self.file.add_with_ids(vectors.numpy(), torch.arange(len(vectors)).numpy())

    def replace(self, slots: Tensor, vectors: Tensor) -> None:
        """Other vectors at some slots, also at those that it did not know."""
        ids = slots.numpy()
        self.file.remove_ids(self.kit.IDSelectorArray(ids))
        self.file.add_with_ids(vectors.numpy(), ids)

    def search(self, asked: Tensor, size: int, probes: int) -> Tensor:
        """Slots [query, size], best first; -1 where the lists that were looked at hold no more."""
        self.file.nprobe = probes
        return torch.from_numpy(self.file.search(asked.numpy(), size)[1])


class Index:
    """The index of one read. probes: lists that a search looks at, as written, or as many as are enough. recall:
    of the best slots for some stored keys, themselves aside, what share it found when it was built (none yet: NaN)."""

    def __init__(self, read: str, about: Mapping[str, Any]) -> None:
        self.read, self.about = read, about
        self.made: Any = None
        self.lists = self.probes = 0
        self.recall = math.nan
        self.changed = 0
        self.told = False

    def __deepcopy__(self, memo: Any) -> Index:
        return Index(self.read, self.about)

    def __reduce__(self) -> tuple[type[Index], tuple[str, Mapping[str, Any]]]:
        return Index, (self.read, self.about)

    @property
    def ready(self) -> bool:
        return self.made is not None

    def follow(self, keys: Tensor, held: int, call: Lookups) -> None:
        """Have a call's searches in these rows use it, [slot, *key]; it is built where that is due: once there are
        enough items, and again when as many have been written since."""
        call.indexes[keys.data_ptr(), self.read] = self
        if held >= LEAST and (self.made is None or self.changed >= held):
            self.build(keys.detach(), held)

    def build(self, keys: Tensor, held: int) -> None:
        """From the first `held` keys, [slot, *key]."""
        vectors = self.shown(keys[:held])
        self.lists = min(self.about["lists"] or round(math.sqrt(held)), held)
        self.made = Faiss(vectors, self.lists, inner=self.about["score"] != "inverse_distance")
        self.changed = 0
        self.measure(keys, held)
        self.warn()

    def measure(self, keys: Tensor, held: int) -> None:
        """Recall; of probes that are not written, it takes the first power of two that gives enough."""
        own = torch.linspace(0, held - 1, min(ASKED, held), device=keys.device).long()
        asked = keys[own].reshape(len(own), -1)
        size = min(self.about["size"] + 1, held)
        order = order_of(len(keys), torch.tensor(float(held)), None)
        wanted = exact(self.about["score"], keys.reshape(len(keys), -1), held, order, (asked,), size)
        most = self.about["probes"] or max(1, self.lists // 4)
        self.probes = min(self.lists, self.about["probes"] or 4)
        while True:
            self.recall = shared(wanted, self.search(asked, size), own)
            if self.recall >= ENOUGH or self.probes >= min(most, self.lists):
                return
            self.probes = min(2 * self.probes, most, self.lists)

    def warn(self) -> None:
        """Say once that it finds little."""
        if self.recall >= LOW or self.told:
            return
        self.told = True
        more = min(4 * self.probes, self.lists)
        warnings.warn(
            f"the index of `{self.read}` finds {self.recall:.0%} of the best slots, in {self.probes} of {self.lists}"
            f" lists: write more `probes`, as in `index: faiss(probes={more})`, or `index: exact`",
            RuntimeWarning,
            stacklevel=7,
        )

    def shown(self, keys: Tensor) -> Tensor:
        """Keys or queries as the index compares them."""
        keys = keys.detach().reshape(len(keys), -1).to(device="cpu", dtype=torch.float32)
        if self.about["score"] == "cosine":
            keys = keys / torch.linalg.vector_norm(keys, dim=1, keepdim=True).clamp_min(1e-8)
        return keys.contiguous()

    def replace(self, slots: Tensor, keys: Tensor) -> None:
        """Other keys at some slots."""
        if self.made is not None and len(slots):
            self.made.replace(slots.cpu(), self.shown(keys))
            self.changed += len(slots)

    def search(self, asked: Tensor, size: int) -> Tensor:
        """Slots [query, size], best first; -1 where there are no more."""
        return self.made.search(self.shown(asked), size, self.probes).to(asked.device)


def shared(wanted: Tensor, found: Tensor, own: Tensor) -> float:
    """Which share of the wanted slots was found, [query, any], those aside that ask."""
    there = (wanted >= 0) & (wanted != own[:, None])
    hit = (wanted[:, :, None] == found[:, None, :]).any(2) & there
    return float(hit.sum() / there.sum().clamp_min(1))
