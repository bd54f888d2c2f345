"""Unbiased online recurrent optimisation with one estimate for a whole batch, as it is defined, for given signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from recdsl.backends.reference.rank_one import SMALL, Steps, gradients_of

Tensors = Mapping[str, Tensor]


class Joint(Steps):
    """The samples of a batch as one system: s~ in R^(B n), theta~ in R^p (semantics 4.7).

    s~ <- r0 D s~ + r1 nu; theta~ <- theta~ / r0 + nu^T I / r1, where r0 = sqrt(|theta~| / |D s~|) and
    r1 = sqrt(|nu^T I| / |nu|). The gradient of a step's losses is (q s~) theta~ and what they ask of the parameters
    inside the step.
    """

    def gradients(self, chosen: Sequence[Tensor], divided: Sequence[float], signs: Tensors) -> dict[int, Tensor]:
        """By effective parameter. A reset zeroes the rows of its sample in s~ and nothing else."""
        fixed = {k: value.detach() for k, value in self.invariant().items() if k in self.sources}
        carried = {name: value.detach() for name, value in self._start().items()}
        rows = {name: torch.zeros_like(carried[name]) for name in self.names}
        held = torch.zeros(sum(value.numel() for value in fixed.values()), dtype=self.dtype)
        total = held
        for t in range(self.call.steps):
            leaves = {k: fixed[k].clone().requires_grad_() for k in self.sources}
            self.own = {k: leaf.expand(self.call.samples, *leaf.shape) for k, leaf in leaves.items()}
            values, leaving = self._step(t, carried)
            rows = {n: s if n in self.kept else self._forgotten(s, t) for n, s in rows.items()}
            asked = gradients_of(self._total(values, t, chosen, divided), [*self._entered(), *leaves.values()])
            q, direct = asked[: len(self.names)], asked[len(self.names) :]
            total = total + _flat(direct, held) + (_flat(q, held) @ _flat(rows.values(), held)) * held
            nu = {name: signs[name][t] for name in self.names}
            pushed = sum(((leaving[n] * nu[n]).sum() for n in self.names), torch.zeros((), dtype=self.dtype))
            local = _flat(gradients_of(pushed, list(leaves.values())), held)
            moved = self._moved(rows, {n: leaving[n] for n in self.names})
            rows, held = self._mixed(moved, held, local, nu)
            rows = {name: self._faded(value, t) for name, value in rows.items()}
            carried = {name: value.detach() for name, value in leaving.items()}
        parts = total.split([fixed[k].numel() for k in self.sources])
        return {k: part.reshape(fixed[k].shape) for k, part in zip(self.sources, parts, strict=True)}

    def _entered(self) -> list[Tensor]:
        return [self.met[name] for name in self.names]

    @staticmethod
    def _mixed(moved: Tensors, held: Tensor, local: Tensor, nu: Tensors) -> tuple[dict[str, Tensor], Tensor]:
        """(s~, theta~) as a step leaves them."""
        signs = _flat(nu.values(), held)
        old = ((held.norm() + SMALL) / (_flat(moved.values(), held).norm() + SMALL)).sqrt()
        new = ((local.norm() + SMALL) / (signs.norm() if signs.numel() else 1.0)).sqrt()
        return {n: old * moved[n] + new * nu[n] for n in moved}, held / old + local / new


def _flat(parts: Iterable[Tensor], like: Tensor) -> Tensor:
    """Several values as one vector."""
    found = [part.reshape(-1) for part in parts]
    return torch.cat(found) if found else like.new_zeros(0)
