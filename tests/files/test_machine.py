from pathlib import Path

import pytest

from restorectl.files import machine


def test_this_machine_has_some_of_each(tmp_path: Path) -> None:
    memory = machine.available_memory()
    assert memory is None or memory > 1 << 20
    assert machine.free_space(tmp_path / "not" / "there") == machine.free_space(tmp_path)
    assert machine.existing_folder(tmp_path / "not" / "there") == tmp_path


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/job\n", {"job/memory.max": "max"}, None),
        (
            "0::/slurm/job\n",
            {
                "slurm/memory.max": "1000000",
                "slurm/memory.current": "900000",
                "slurm/memory.stat": "anon 800000\ninactive_file 50000\n",
                "slurm/job/memory.max": "max",
                "slurm/job/memory.current": "100",
            },
            150000,
        ),
        (
            "5:memory:/docker/a\n3:cpu:/docker/a\n",
            {  # a container sees its own group at the root
                "memory/memory.limit_in_bytes": "5000",
                "memory/memory.usage_in_bytes": "9000",
            },
            0,
        ),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, monkeypatch, groups, files, left) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    read = machine._read

    def from_here(path: Path) -> str:
        if path == Path("/proc/self/cgroup"):
            return groups
        return "" if path.is_relative_to("/proc") else read(path)

    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_read", from_here)
    monkeypatch.setattr(machine, "_machine", lambda: None)
    assert machine.available_memory() == left
    monkeypatch.setattr(machine, "_machine", lambda: 10**5)
    assert machine.available_memory() == min(10**5, 10**5 if left is None else left)
