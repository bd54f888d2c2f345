"""The oracle: for every routing class and window the network is unrolled, cut as the rule says, and differentiated.

Nothing is shared between windows, nothing is derived: this is the definition that every other execution must equal
(semantics, section 8, O4). Its cost grows with length squared over the window; it is for small networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recdsl.backends.reference.answered import answered_gradients
from recdsl.backends.reference.joint import Joint
from recdsl.backends.reference.kronecker import Uses
from recdsl.backends.reference.rank_one import rank_one_gradients
from recdsl.backends.reference.result import Call, Result
from recdsl.backends.reference.returns import lambda_return
from recdsl.backends.reference.schedule import counted, divisors
from recdsl.backends.reference.slid import slid_gradients
from recdsl.backends.reference.temporal import Differences, differences, shared
from recdsl.backends.reference.traced import traced_gradients
from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.plan import CreditPlan, RoutingClass, Window
from recdsl.graph.step import StepGraph

Tensors = Mapping[str, Tensor]
WHOLE, NO_CUTS = Window(None, 1), frozenset[tuple[int, int]]()


class Thinned(Unroll):
    """The network with credit over each step boundary weighted: 0 cuts, more than 1 makes up for cuts elsewhere."""

    def __init__(
        self,
        graph: StepGraph,
        params: Tensors,
        call: Call,
        routing: RoutingClass,
        dtype: torch.dtype,
        weights: Tensor,
    ) -> None:
        super().__init__(graph, params, call, routing.cuts, dtype, routing)
        self.weights = weights

    def crossed(self, name: str, value: Tensor, t: int) -> Tensor:
        if t == 0 or not value.is_floating_point():
            return value
        weight = self.weights[t].reshape(-1, *(1,) * (value.dim() - 1))
        return value.detach() + weight * (value - value.detach())


class Gridded(Unroll):
    """The network with everything carried detached on entering every so-manyth step, but for what is spared."""

    def __init__(
        self,
        graph: StepGraph,
        params: Tensors,
        call: Call,
        routing: RoutingClass,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(graph, params, call, routing.cuts, dtype, routing)
        self.grid, self.spared = routing.window.every, routing.spared

    def crossed(self, name: str, value: Tensor, t: int) -> Tensor:
        cut = t > 0 and t % self.grid == 0 and name not in self.spared
        return value.detach() if cut else value


class Reference:
    """A step graph under a credit plan.

    Random draws are given, by the class's place in the plan; without them it is the mean of all draws that is computed.
    weights: of random truncation, [T, B]. signs: of rank-one estimates, by carry, [T, B, *axes].
    """

    def __init__(
        self,
        graph: StepGraph,
        plan: CreditPlan,
        dtype: torch.dtype = torch.float64,
        weights: Mapping[int, Tensor] | None = None,
        signs: Mapping[int, Tensors] | None = None,
    ) -> None:
        self.graph, self.plan, self.dtype = graph, plan, dtype
        self.weights, self.signs = dict(weights or {}), dict(signs or {})

    def run(
        self,
        params: Tensors,
        batch: Tensors,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        state: Tensors | None = None,
        cotangents: Tensors | None = None,
        counted: Tensor | None = None,
    ) -> Result:
        """Forward and gradient of one call.

        params: all parameters and frozen values. batch: [T, B, *axes]. mask (True: valid), reset: [T, B]. state: of an
        earlier result. cotangents: of outputs, [T, B, *axes], added to the derivative of the loss. counted: [T, B], the
        pairs whose losses count (None: all that are valid).
        """
        call = replace(self._call(batch, mask, reset, state, cotangents or {}), counted=counted)
        return self._run(self.plan, params, call)

    def full(
        self,
        params: Tensors,
        batch: Tensors,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        state: Tensors | None = None,
        cotangents: Tensors | None = None,
    ) -> Result:
        """The same call by full backpropagation, the derivative that verdicts are relative to. Of the plan's classes
        only their parameters and the losses that may train them are taken."""
        call = self._call(batch, mask, reset, state, cotangents or {})
        free = tuple(RoutingClass(WHOLE, NO_CUTS, c.losses, c.outputs, c.parameters) for c in self.plan.classes)
        return self._run(replace(self.plan, classes=free), params, call)

    def _call(
        self, batch: Tensors, mask: Tensor | None, reset: Tensor | None, state: Tensors | None, cotangents: Tensors
    ) -> Call:
        first = next(iter(batch.values()))
        shape = (first.shape[0], first.shape[1])
        valid = torch.ones(shape, dtype=torch.bool) if mask is None else mask.to(torch.bool)
        restart = torch.zeros(shape, dtype=torch.bool) if reset is None else reset.to(torch.bool)
        clean = {name: self._clean(tensor, valid) for name, tensor in batch.items()}
        start = 0 if state is None else int(state["t"])
        return Call(clean, valid, restart, start, state, {k: v.to(self.dtype) for k, v in cotangents.items()})

    def _clean(self, tensor: Tensor, valid: Tensor) -> Tensor:
        """Zeros at masked steps: what stands there is never read, not even by a product with 0."""
        cast = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        keep = valid.reshape(*valid.shape, *(1,) * (cast.dim() - 2))
        return torch.where(keep, cast, torch.zeros_like(cast))

    def _run(self, plan: CreditPlan, params: Tensors, call: Call) -> Result:
        given = {name: value.detach().to(self.dtype) for name, value in params.items()}
        with torch.no_grad():
            steps, carried = Unroll(self.graph, given, call, frozenset(), self.dtype).run(call.steps, 0)
        errors = {
            k: differences(self.graph, loss.td, steps, call, self.dtype)
            for k, loss in enumerate(self.graph.losses)
            if loss.td is not None
        }
        chosen = [counted(loss, call.valid, call.counted, call.state) for loss in self.graph.losses]
        divided = divisors(self.graph, chosen)
        losses = {
            loss.name: (
                errors[k].losses()[chosen[k]].sum()
                if k in errors
                else self._sum(loss.node, chosen[k], steps, range(call.steps))
            )
            / divided[k]
            for k, loss in enumerate(self.graph.losses)
        }
        made = self._shares(errors, call, chosen, divided)
        total = torch.zeros((), dtype=self.dtype)
        for loss in self.graph.losses:
            total = total + loss.weight * losses[loss.name]
        gradients: dict[str, Tensor] = {}
        for index, routing in enumerate(plan.classes):
            gradients |= self._class(index, routing, given, call, chosen, divided, made)
        kept = {c.name: carried[c.name] for c in self.graph.carries if not c.taped}
        state = {**kept, "t": torch.tensor(call.start + call.steps)}
        return Result(self._outputs(steps, call), total, losses, state, gradients)

    def _class(
        self,
        index: int,
        routing: RoutingClass,
        params: Tensors,
        call: Call,
        chosen: list[Tensor],
        divided: list[float],
        shares: Mapping[int, Tensor],
    ) -> dict[str, Tensor]:
        """The gradient of one class by the definition of its kind."""
        given = (self.graph, routing, params, call, chosen, divided)
        if routing.head is not None:
            largest = max([divided[k] for k in routing.losses], default=1.0)

            def objective(steps: list[Values], window: range) -> Tensor:
                return self._objective(routing, steps, window, call, chosen, divided, shares)

            def returned(first: int) -> Tensor:
                return lambda_return(self.graph, routing, params, call, objective, largest, self.dtype, first)

            target = None if routing.head.asked.mixing is None else returned
            return answered_gradients(self.graph, routing, params, call, objective, largest, self.dtype, target)
        if routing.tracing is None:
            return self._gradients(routing, params, call, chosen, divided, shares)
        if not routing.tracing.random:
            return traced_gradients(*given, shares, self.dtype)
        if index in self.signs:
            kind = Uses if routing.tracing.scope == "kronecker" else Joint if routing.tracing.batch == "joint" else None
            return rank_one_gradients(*given, self.signs[index], self.dtype, kind)
        whole = replace(routing, window=WHOLE, tracing=None)
        return self._gradients(whole, params, call, chosen, divided, shares)

    def _shares(
        self, errors: Mapping[int, Differences], call: Call, chosen: list[Tensor], divided: list[float]
    ) -> dict[int, Tensor]:
        """By `td` loss: what the gradient of its prediction is multiplied by at each step, [T, B, *axes]."""
        found: dict[int, Tensor] = {}
        for k, error in errors.items():
            loss = self.graph.losses[k]
            assert loss.td is not None
            weights = chosen[k].to(self.dtype) * (loss.weight / divided[k])
            found[k] = shared(error, loss.td, weights, call.valid)
        return found

    def _gradients(
        self,
        routing: RoutingClass,
        params: Tensors,
        call: Call,
        chosen: list[Tensor],
        divided: list[float],
        shares: Mapping[int, Tensor],
    ) -> dict[str, Tensor]:
        """The sum over the windows of one class."""
        if routing.budget:

            def due(steps: Mapping[int, Values], t: int) -> Tensor:
                return self._objective(routing, steps, range(t, t + 1), call, chosen, divided, shares)

            return slid_gradients(self.graph, routing, params, call, due, self.dtype)
        whole = routing.window.size is None or bool(routing.spared)
        size = call.steps if routing.window.size is None or whole else routing.window.size
        every = call.steps if whole else routing.window.every
        found = {name: torch.zeros_like(params[name]) for name in routing.parameters}
        for first in range(0, call.steps, max(every, 1)):
            leaves = {name: params[name].clone().requires_grad_() for name in routing.parameters}
            given = {**params, **leaves}
            unroll = Thinned(self.graph, given, call, routing, self.dtype, self._thinning(routing, call))
            if routing.spared:
                unroll = Gridded(self.graph, given, call, routing, self.dtype)
            window = range(first, min(first + every, call.steps))
            steps, _ = unroll.run(window.stop, max(0, first + every - size))
            total = self._objective(routing, steps, window, call, chosen, divided, shares)
            if not leaves or not total.requires_grad:
                continue
            parts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for name, part in zip(leaves, parts, strict=True):
                found[name] = found[name] + part
        return found

    def _thinning(self, routing: RoutingClass, call: Call) -> Tensor:
        """[T, B]: what credit is multiplied by on its way over the boundary before each step."""
        place = self.plan.classes.index(routing) if routing in self.plan.classes else -1
        return self.weights.get(place, torch.ones(call.valid.shape, dtype=self.dtype))

    def _objective(
        self,
        routing: RoutingClass,
        steps: Sequence[Values] | Mapping[int, Values],
        window: range,
        call: Call,
        chosen: list[Tensor],
        divided: list[float],
        shares: Mapping[int, Tensor],
    ) -> Tensor:
        """The class's losses at the window's steps, and <cotangents, outputs> there.

        The loss of a temporal difference belongs to the step of the prediction that it changes.
        """
        total = torch.zeros((), dtype=self.dtype)
        for k in routing.losses:
            loss = self.graph.losses[k]
            if k in shares:
                total = total + sum((shares[k][t] * steps[t][loss.root]).sum() for t in window)
                continue
            total = total + loss.weight / divided[k] * self._sum(loss.node, chosen[k], steps, window)
        if routing.outputs:
            for name, node in self.graph.outputs:
                if name in call.cotangents:
                    for t in window:
                        total = total + (call.cotangents[name][t] * steps[t][node]).sum()
        return total

    def _sum(self, node: int, pairs: Tensor, steps: Sequence[Values] | Mapping[int, Values], window: range) -> Tensor:
        """The node's values over the chosen pairs of the window's steps."""
        total = torch.zeros((), dtype=self.dtype)
        for t in window:
            total = total + steps[t][node].expand(pairs.shape[1])[pairs[t]].sum()
        return total

    def _outputs(self, steps: list[Values], call: Call) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for name, node in self.graph.outputs:
            shape = (call.samples, *self.graph.nodes[node].type.shape)
            outputs[name] = torch.stack([values[node].expand(shape) for values in steps])
        return outputs
