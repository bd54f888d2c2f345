"""Stores whose rows are files: as in memory, and after a crash what was acknowledged, or what a checkpoint knows."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.backends.torch.disk import Disk, StoreFailed
from recdsl.errors.runs import RunError
from recdsl.training import store, stores
from recdsl.training.checkpoint import listed, load
from recdsl.training.run import evaluate, train
from tests.memory import hansen_support as hansen

PARTS = {"key": ((6, 2), torch.float64), "seen": ((6,), torch.long)}
CREDITS = (
    "stop",
    "param(lr=0.5)",
    "reinstate(approximate, encode=e, decode=stored, freshen=2)",
    "reinstate(exact, encode=e, decode=rebuilt)",
)


def change(disk: Disk, seed: int) -> None:
    """One write of both parts."""
    g = torch.Generator().manual_seed(seed)
    slots = torch.randperm(6, generator=g)[: seed % 4]
    disk.change("key", slots, torch.randn(len(slots), 2, generator=g, dtype=torch.float64))
    disk.change("seen", slots, torch.randint(0, 99, (len(slots),), generator=g))


def shown(disk: Disk) -> list[Any]:
    return [rows.tolist() for rows in disk.rows.values()]


def filled(folder: Path, writes: int, keep: int = 9) -> list[list[Any]]:
    """What the store holds after each of some writes; every third is followed by a mark."""
    disk = Disk(folder, PARTS)
    found = [shown(disk)]
    for seed in range(writes):
        change(disk, seed)
        disk.commit()
        found.append(shown(disk))
        if seed % 3 == 2:
            disk.mark(keep)
    return found


def test_a_store_goes_back_to_any_write(tmp_path: Path) -> None:
    known = filled(tmp_path, 10)
    for writes in (10, 7, 7, 6, 1, 0):
        disk = Disk(tmp_path, PARTS)
        disk.back(2 * writes)
        assert shown(disk) == known[writes]
        del disk
        assert shown(Disk(tmp_path, PARTS)) == known[writes]


def test_a_store_goes_on_where_it_went_back_to(tmp_path: Path) -> None:
    known = filled(tmp_path, 8)
    disk = Disk(tmp_path, PARTS)
    disk.back(2 * 4)
    for seed in range(4, 8):
        change(disk, seed)
        disk.commit()
        assert shown(disk) == known[seed + 1]
    disk.back(2 * 5)
    assert shown(disk) == known[5]


def test_old_logs_go_and_say_how_far_back_the_others_reach(tmp_path: Path) -> None:
    known = filled(tmp_path, 9, keep=2)
    disk = Disk(tmp_path, PARTS)
    with pytest.raises(ValueError, match="can go back to any of its records 12 to 18, but not to 4"):
        disk.back(4)
    assert shown(disk) == known[9]
    disk.back(12)
    assert shown(disk) == known[6]


def test_what_was_not_acknowledged_is_taken_back(tmp_path: Path) -> None:
    known = filled(tmp_path, 4)
    disk = Disk(tmp_path, PARTS)
    change(disk, 5)  # ends before it commits
    assert shown(disk) != known[4]
    del disk
    log = max(tmp_path.glob("undo-*.log"), key=lambda path: int(path.name[5:-4]))
    whole = log.read_bytes()
    log.write_bytes(whole + whole[: len(whole) // 2])  # and one that was being written
    disk = Disk(tmp_path, PARTS)
    assert shown(disk) == known[4]
    disk.back(2)
    assert shown(disk) == known[1]


def test_one_process_writes_and_readers_change_nothing(tmp_path: Path) -> None:
    known = filled(tmp_path, 5)
    first = Disk(tmp_path, PARTS)
    with pytest.raises(StoreFailed, match="another process writes this store"):
        Disk(tmp_path, PARTS)
    with pytest.raises(StoreFailed, match="another process writes this store"):
        Disk(tmp_path, PARTS, private=True)
    del first
    readers = [Disk(tmp_path, PARTS, private=True) for _ in range(2)]
    readers[0].back(2)
    assert shown(readers[0]) == known[1]
    assert shown(readers[1]) == known[5]
    change(readers[0], 3)
    del readers
    assert shown(Disk(tmp_path, PARTS)) == known[5]


def test_a_full_disk_is_an_error_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFailed, match="No space left") as caught:
        Disk(tmp_path, PARTS)
    assert caught.value.recdsl_needed == 6 * 2 * 8
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_record_that_finds_no_room_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = filled(tmp_path, 4)
    disk, write = Disk(tmp_path, PARTS), os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StoreFailed, match="No space left"):
        change(disk, 5)
    monkeypatch.undo()
    assert shown(disk) == known[4]
    change(disk, 4)
    disk.commit()
    disk.back(8)
    assert shown(disk) == known[4]


# -- models ----------------------------------------------------------------------------------------------------------
def on_disk(text: str) -> str:
    return text.replace("    slots:", "    storage: disk\n    slots:")


@pytest.mark.parametrize("credit", CREDITS)
def test_rows_on_disk_are_rows_in_memory(credit: str, tmp_path: Path) -> None:
    """Bitwise, and the state dict holds no rows."""
    text = hansen.spec(credit, 4, "topk(2)")
    one, two = hansen.module(text), hansen.module(on_disk(text))
    two.recdsl_keepers["episodic"].open(two, tmp_path)
    for number in range(5):
        first, second = (model(hansen.draw(3, number)).loss for model in (one, two))
        assert torch.equal(first, second)
        assert hansen.apart(hansen.gradients(one, first), hansen.gradients(two, second)) == 0.0
    there = dict(two.named_buffers())
    assert all(torch.equal(value, there[name]) for name, value in one.named_buffers())
    assert not {"episodic.key", "episodic.value", "episodic.observed.x"} & set(two.state_dict())


def test_a_state_dict_takes_rows_back(tmp_path: Path) -> None:
    model = hansen.module(on_disk(hansen.spec("stop", 4, "topk(2)")))
    model.recdsl_keepers["episodic"].open(model, tmp_path)
    for number in range(2):
        model(hansen.draw(3, number))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rows = model.episodic.key.clone()
    model(hansen.draw(3, 7))
    assert not torch.equal(model.episodic.key, rows)
    model.load_state_dict(state)
    assert torch.equal(model.episodic.key, rows)


# -- runs ------------------------------------------------------------------------------------------------------------
SPEC = """
recdsl: 1
name: stored
sizes: {columns: 8, code: 6, classes: 10}
inputs: {x: "float[columns]"}
targets: {y: "class[classes]"}
memory:
  past:
    slots: 40
    storage: disk
    write: {key: e, value: onehot(y)}
    read: {query: stop(e), score: cosine(sharpness=5), select: topk(4), normalise: softmax}
step: |
  e = mlp(x, sizes=[9, code])
  guess = past.read
loss:
  classify: {value: "nll(guess, y)", trains: [e.*, past]}
credit:
  past: reinstate(approximate, encode=e, decode=stored)
data: sequential_digits(as=rows)
train: {batch: 4, steps: 20, checkpoint: 5, log: 5, optimizer: adam(lr=1e-2), seed: 1, threads: 1, keep: 2}
"""
KILLED = """
import os, signal, sys
from recdsl.training.run import train
calls, write = [0], os.pwrite
def dies(*given):
    calls[0] += 1
    if calls[0] == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*given)
os.pwrite = dies
train(sys.argv[1], root=sys.argv[2], progress="silent")
"""


def process(code: str, *given: str, limit: int = 0) -> subprocess.CompletedProcess[str]:
    """Run some Python; limit: the most bytes of a file."""
    head = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" if limit else ""
    return subprocess.run(
        [sys.executable, "-c", head + code, *given], capture_output=True, text=True, timeout=200, check=False
    )


def rows(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "stores" / "past").glob("*.rows")}


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed in the middle of a write: rows have changed, and nothing says so yet."""
    spec = tmp_path / "stored.yaml"
    spec.write_text(SPEC)
    wanted = train(str(spec), root=tmp_path / "whole", progress="silent")
    ended = process(KILLED, str(spec), str(tmp_path / "killed"))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (run,) = (path for path in (tmp_path / "killed" / "stored").iterdir() if not path.is_symlink())
    assert int(listed(run / "checkpoints")[-1].name[5:]) == 10
    found = train(str(spec), root=tmp_path / "killed", resume=str(run), progress="silent")
    first, second = load(Path(wanted.checkpoint)), load(Path(found.checkpoint))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert rows(wanted.folder) == rows(found.folder)
    assert found.test == wanted.test
    kept = rows(found.folder)
    assert evaluate(found.folder) == found.test
    assert evaluate(listed(run / "checkpoints")[0]) is not None  # an older one, whose rows are made in memory
    assert rows(found.folder) == kept


def test_a_run_whose_store_finds_no_room_is_one_error(tmp_path: Path) -> None:
    spec = tmp_path / "stored.yaml"
    spec.write_text(SPEC.replace("slots: 40", "slots: 40_000"))
    code = "import sys\nfrom recdsl.training.run import train\ntrain(sys.argv[1], root=sys.argv[2], progress='silent')"
    ended = process(code, str(spec), str(tmp_path), limit=300_000)
    assert ended.returncode == 1, ended
    assert "RD0702" in ended.stderr
    assert ".rows: 1600000 bytes needed" in ended.stderr or ".rows: 960000 bytes needed" in ended.stderr


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    spec = tmp_path / "stored.yaml"
    spec.write_text(SPEC.replace("steps: 20", "steps: 5"))
    done = train(str(spec), root=tmp_path, progress="silent")
    path = done.folder / "stores" / "past" / "key.rows"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="RD0705"):
        train(str(spec), root=tmp_path, resume=str(done.folder), progress="silent")


# -- a folder of one's own -------------------------------------------------------------------------------------------
def placed(tmp_path: Path, place: str, steps: int = 5) -> str:
    spec = tmp_path / "placed.yaml"
    spec.write_text(SPEC.replace("storage: disk", f"storage: disk({place})").replace("steps: 20", f"steps: {steps}"))
    return str(spec)


def test_rows_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of where the run began, from wherever it is resumed; the rows are the same."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    plain = tmp_path / "stored.yaml"
    plain.write_text(SPEC)
    wanted = train(str(plain), root=tmp_path / "plain", progress="silent")
    first = train(placed(tmp_path, "my rows/a"), root=tmp_path / "own", progress="silent")
    monkeypatch.chdir(tmp_path)
    more = ("train.steps=20",)
    done = train(
        placed(tmp_path, "my rows/a"), more, root=tmp_path / "own", resume=str(first.folder), progress="silent"
    )
    folder = tmp_path / "there" / "my rows" / "a" / "past"
    assert {path.name: path.read_bytes() for path in folder.glob("*.rows")} == rows(wanted.folder)
    assert not rows(done.folder)
    assert done.test == wanted.test
    assert evaluate(done.folder) == done.test


def test_rows_of_another_run_are_refused_and_kept(tmp_path: Path) -> None:
    first = train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", progress="silent")
    kept = {path: path.read_bytes() for path in (tmp_path / "a" / "past").iterdir() if path.is_file()}
    with pytest.raises(RunError, match="RD0716"):
        train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", progress="silent")
    assert {path: path.read_bytes() for path in kept} == kept
    assert evaluate(first.folder) == first.test


def test_a_folder_in_use_or_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    model = hansen.module(on_disk(hansen.spec("stop", 4, "topk(2)")))
    model.recdsl_keepers["episodic"].open(model, tmp_path / "a" / "past")
    with pytest.raises(RunError, match="RD0708"):
        train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", progress="silent")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"RD0706(.|\n)*disk\(PATH\)"):
        train(placed(tmp_path, str(tmp_path / "file" / "b")), root=tmp_path / "runs", progress="silent")


@pytest.mark.parametrize("note", ["", "[]", '{"place": 3}', '{"place": "a", "folder": "b"}', "\x00\x01"])
def test_a_damaged_note_is_one_error(note: str, tmp_path: Path) -> None:
    run = train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", progress="silent").folder
    (run / "stores" / "past.json").write_text(note)
    with pytest.raises(RunError, match=r"RD0707.*stores/past\.json"):
        train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", resume=str(run), progress="silent")


def test_a_note_that_finds_no_room_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    with pytest.raises(RunError, match=r"RD0702.*past\.json"):
        stores.located(tmp_path, "past", str(tmp_path / "a"))
    assert list((tmp_path / "stores").iterdir()) == []


def test_an_owner_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while it writes leaves no folder behind that belongs to nobody."""

    def ended(old: Path, new: Path) -> None:
        raise KeyboardInterrupt

    filled(tmp_path / "rows", 0)
    (tmp_path / "rows" / "committed").unlink(missing_ok=True)
    for path in (tmp_path / "rows").glob("undo-*.log"):
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", ended)
        with pytest.raises(KeyboardInterrupt):
            Disk(tmp_path / "rows", PARTS, owner="mine")
    Disk(tmp_path / "rows", PARTS, owner="mine")


@pytest.mark.parametrize("name", ["owner", "committed"])
def test_files_that_cannot_be_read_are_a_store_that_failed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreFailed, match=f"Is a directory: .*{name}"):
        Disk(tmp_path, PARTS, owner="mine" if name == "owner" else "")


def test_a_damaged_number_is_one_error(tmp_path: Path) -> None:
    run = train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", progress="silent").folder
    (tmp_path / "a" / "past" / "committed").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"RD0717.*past/committed is damaged"):
        train(placed(tmp_path, str(tmp_path / "a")), root=tmp_path / "runs", resume=str(run), progress="silent")


def test_no_rows_are_put_back_from_a_damaged_log(tmp_path: Path) -> None:
    """Not even those that can be read: they would be rows of no moment."""
    known = filled(tmp_path, 6)
    path = min(tmp_path.glob("undo-*.log"))
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    disk = Disk(tmp_path, PARTS)
    with pytest.raises(StoreFailed, match="what was changed by record 1 cannot be read"):
        disk.back(0)
    assert shown(disk) == known[6]


def test_going_back_that_was_interrupted_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, disk = filled(tmp_path, 9), Disk(tmp_path, PARTS)
    undo, seen = vars(Disk)["_undo"], list[int]()

    def once(self: Disk, *given: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        undo(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "_undo", once)
        with pytest.raises(KeyboardInterrupt):
            disk.back(4)
    del disk
    assert shown(Disk(tmp_path, PARTS)) == known[2]


# -- faults ----------------------------------------------------------------------------------------------------------
def rows_first(self: Disk, part: str, slots: torch.Tensor, new: torch.Tensor) -> None:
    """Rows are changed before what they held is written down."""
    self.rows[part][slots] = new
    CHANGE(self, part, slots, new)


def never_taken_back(self: Disk, number: int) -> None:
    self.number = self.committed = number


CHANGE = Disk.change


@pytest.mark.parametrize(("name", "fault"), [("change", rows_first), ("back", never_taken_back)])
def test_faults_are_seen_by_going_back(name: str, fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, name, fault)
    with pytest.raises(AssertionError):
        test_a_store_goes_back_to_any_write(tmp_path)
