"""The model's class: the torch backend's, with compiled functions in its table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from recdsl.backends.native.build import BuildError, NativeWarning
from recdsl.backends.native.call import DTYPES, Library, Table, joined
from recdsl.backends.native.parts import LATER
from recdsl.backends.native.variants import Variants

if TYPE_CHECKING:
    from recdsl.backends.native.online import Learner, Shape, Update


class Code:
    """What a model runs: the generated functions, and the compiled ones of each variant once it is called."""

    def __init__(self, generated: Table, variants: Variants, flags: tuple[str, ...]) -> None:
        self.generated, self.variants, self.flags = generated, variants, flags
        self.libraries: dict[tuple[str, bool], Library] = {}
        self.tables: dict[str, tuple[Table, tuple[tuple[str, str, str], ...]]] = {}
        self.failed: dict[str, str] = {}

    def library(self, variant: str, *, later: bool = False) -> Library:
        """The C of a variant, lowered when it is first asked for. later: that of gradients at outputs."""
        if (variant, later) not in self.libraries:
            made = self.variants.variant(variant)
            self.libraries[variant, later] = Library(made.later if later else made.source, self.flags)
        return self.libraries[variant, later]

    def table(self, variant: str) -> Table:
        """The variant's functions, compiled ones where there are some."""
        return self._joined(variant)[0]

    def _joined(self, variant: str) -> tuple[Table, tuple[tuple[str, str, str], ...]]:
        if variant not in self.tables:
            made = self.variants.variant(variant)
            libraries = {later: self.library(variant, later=later) for later in (False, True)}
            self.tables[variant] = joined(self.generated, variant, made.functions, made.left, libraries)
        return self.tables[variant]

    @property
    def left(self) -> tuple[tuple[str, str, str], ...]:
        """(variant, entry, reason) of what has no C."""
        return tuple(entry for variant in self.variants for entry in self._joined(variant)[1])

    def runs(self, variant: str, like: torch.Tensor) -> bool:
        """Whether there is C for this device and precision, as far as it is known. There is none for encoders and
        decoders that are run on their own, on many items at a time: these are a few large products."""
        known = variant in self.variants and variant not in self.failed
        return known and like.device.type == "cpu" and like.dtype in DTYPES

    def load(self, variant: str, dtype: torch.dtype, *, later: bool = False) -> bool:
        """Compile a variant, if that is to be done. What fails once is not tried again by this model."""
        name, library = f"{variant}{LATER * later}", self.library(variant, later=later)
        if name in self.failed or dtype in library.loaded:
            return name not in self.failed
        try:
            library.load(dtype)
        except BuildError as error:
            self.failed[name] = str(error)
            runs = "gradients at its outputs run" if later else "this model runs"
            warnings.warn(f"{error}; {runs} on the torch backend", NativeWarning, stacklevel=4)
            return False
        return True


class Functions(Mapping[str, Any]):
    """The table that the runtime reads: compiled functions where there are some for the model as it is now."""

    def __init__(self, code: Code, like: torch.Tensor) -> None:
        self.code, self.like = code, like

    def __getitem__(self, name: str) -> Any:
        code, variant = self.code, name.partition(".")[0]
        kinds = (False, True) if name.endswith(LATER) else (False,)
        if code.runs(variant, self.like) and all(code.load(variant, self.like.dtype, later=kind) for kind in kinds):
            return code.table(variant)[name]
        return code.generated[name]

    def __iter__(self) -> Any:
        return iter(self.code.generated)

    def __len__(self) -> int:
        return len(self.code.generated)


def native_model(base: type[Any], variants: Variants, name: str, flags: tuple[str, ...]) -> type[Any]:
    """The class `Model` of the module `name`."""
    code = Code(base.recdsl_functions, variants, flags)

    class Model(base):
        """The compiled model."""

        recdsl_code = code

        @property
        def recdsl_c(self) -> str:
            """The C of all variants."""
            made = [variants.variant(name) for name in variants]
            return "\n".join(text for item in made for text in (item.source, item.later) if text)

        @property
        def recdsl_functions(self) -> Functions:
            return Functions(code, self.recdsl_like)

        def recdsl_prepare(self) -> None:
            """Compile what a call without mask and resets needs. The other variant is compiled at its first call."""
            if code.runs("plain", self.recdsl_like):
                code.load("plain", self.recdsl_like.dtype)

        @property
        def recdsl_runs(self) -> str:
            """What runs the loops: "native", with the entries that run on torch, or "torch" and why."""
            if not code.runs("plain", self.recdsl_like):
                return f"torch ({code.failed.get('plain', 'no C for this device or precision')})"
            notes = [f"{variant} on torch: {reason}" for variant, reason in code.failed.items()]
            notes += [f"{variant}.{entry} on torch: {reason}" for variant, entry, reason in code.left]
            return "; ".join(["native", *notes])

        def recdsl_learner(self, shape: Shape, update: Update, outputs: Sequence[str]) -> Learner:
            """Many updates of online learning in one call. Raises NotLoweredError and BuildError."""
            from recdsl.backends.native.blocks import BlockLearner
            from recdsl.backends.native.online import Learner
            from recdsl.backends.native.values import NotLoweredError

            try:
                return BlockLearner(self, variants, shape, update, outputs, flags)
            except NotLoweredError:
                return Learner(self, variants, shape, update, outputs, flags)

        def extra_repr(self) -> str:
            said = super().extra_repr()
            runs = code.runs("plain", self.recdsl_like)
            return said.replace("backend=torch", "backend=native") if runs else said

    Model.__qualname__, Model.__module__ = "Model", name
    return Model
