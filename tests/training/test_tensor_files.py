"""Tensors in one file, or split by rows over several: partial reads return what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dit_lab.training.tensor_files import Rows, TensorGroup, rows_of, write_tensors

WHOLE: dict[str, Tensor] = {
    "wide": torch.arange(35.0).reshape(7, 5),
    "short": torch.arange(2.0),  # fewer rows than processes
    "half": torch.arange(8.0).bfloat16(),
    "number": torch.tensor(3.5),
}


def cut(tensor: Tensor, index: int, size: int) -> Rows:
    """What process `index` of `size` holds, as torch.chunk cuts it; numbers are held by all."""
    if not tensor.ndim:
        return Rows(tensor, 0, ())
    each = -(-len(tensor) // size)
    first = min(index * each, len(tensor))
    return Rows(tensor[first : first + each], first, tuple(tensor.shape))


def write(folder: Path, size: int) -> list[Path]:
    files = []
    for index in range(size):
        held = {name: cut(tensor, index, size) for name, tensor in WHOLE.items()}
        files += write_tensors(folder, "model", held, index=index, size=size)
    return files


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_all_rows_are_read_back(tmp_path: Path, size: int) -> None:
    assert len(write(tmp_path, size)) == size
    group = TensorGroup(tmp_path, "model")
    assert set(group.names()) == WHOLE.keys()
    for name, tensor in WHOLE.items():
        assert group.shape(name) == tuple(tensor.shape)
        assert group.read(name).dtype == tensor.dtype
        assert torch.equal(group.read(name), tensor)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 4, 9])
def test_any_number_of_readers_take_their_rows(tmp_path: Path, size: int, readers: int) -> None:
    """Some of nine have none."""
    write(tmp_path, size)
    group = TensorGroup(tmp_path, "model")
    for name in ("wide", "short", "half"):
        for index in range(readers):
            mine = cut(WHOLE[name], index, readers)
            read = group.read(name, mine.first, len(mine.tensor))
            assert read.shape == mine.tensor.shape
            assert torch.equal(read, mine.tensor)


def test_what_all_hold_is_written_once(tmp_path: Path) -> None:
    """And what replicas of a shard hold by the first of them."""
    whole = rows_of(torch.ones(4))
    part = Rows(torch.ones(2), 2, (4,))
    copy = Rows(torch.ones(2), 0, (4,), copy=True)
    assert write_tensors(tmp_path, "model", {"a": whole}, index=1, size=2) == []
    assert write_tensors(tmp_path, "model", {"a": copy}, index=2, size=4) == []
    (file,) = write_tensors(tmp_path, "model", {"a": whole, "b": part}, index=1, size=2)
    assert set(TensorGroup(tmp_path, "model").names()) == {"b"}
    assert file.parent == tmp_path / "model"


@pytest.mark.parametrize("size", [1, 3])
def test_the_same_bytes_every_time(tmp_path: Path, size: int) -> None:
    """In another order of the names, too."""
    first, again = tmp_path / "first", tmp_path / "again"
    files = write(first, size)
    for index in range(size):
        held = {name: cut(WHOLE[name], index, size) for name in reversed(WHOLE)}
        write_tensors(again, "model", held, index=index, size=size)
    for file in files:
        assert (again / file.relative_to(first)).read_bytes() == file.read_bytes()


def test_a_copy_on_the_host_is_one() -> None:
    tensor = torch.ones(3)
    copied = rows_of(tensor).on_the_host()
    tensor.fill_(2)
    assert copied.tensor.tolist() == [1, 1, 1]
    assert (copied.first, copied.shape, copied.whole_bytes) == (0, (3,), 12)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: missing"):
        TensorGroup(tmp_path, "model")
