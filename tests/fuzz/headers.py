"""Read mutated checkpoints with svdjobs and with the safetensors library: `make fuzz`.

Each case is a small checkpoint (one to three safetensors files, most with an index) with a few
defects. svdjobs must raise no errors but its own, must take little time and memory, and must read
the same content as the library. It must refuse every file that the library refuses.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from svdjobs.checkpoint.reader import INDEX, Checkpoint, read_checkpoint
from svdjobs.checkpoint.safetensors_format import ITEM_BITS, read_header
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import SvdjobsError
from svdjobs.storage.local import LocalStore

MOST_SECONDS, MOST_MIB = 2.0, 300
_NAMES = (
    "a.weight",
    "b.weight",
    "ünï",
    "",
    "x" * 300,
    "__metadata__",
    "c\u0000",
    "d\ud800",
    "e\nf",
)
_NUMBERS: tuple[Any, ...] = (
    0,
    1,
    3,
    -1,
    2**31,
    2**63,
    2**64 - 1,
    2**64,
    10**40,
    1.0,
    1e400,
    True,
    None,
    "4",
    [],
)
_TEXTS = (
    b" ",
    b"\n",
    b"\xff",
    b"\x00",
    b"{",
    b"}",
    b"[",
    b",",
    b"NaN",
    b"\\ud800",
    b"\xef\xbb\xbf",
)
_SCALES = ("_scale", "_scale_inv")
# The content of a file as the library reads it: dtype, shape and bytes by tensor name.
Read = dict[str, tuple[str, list[int], bytes]]


@dataclass
class Case:
    """A checkpoint to mutate: its headers as objects, then as texts, then its files."""

    rng: random.Random
    headers: list[dict[str, Any]]
    data: list[bytes]
    config: Any = field(default_factory=lambda: {"architectures": ["X"], "vocab_size": 8})
    index: Any = None
    texts: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def any_header(self) -> dict[str, Any]:
        """One of the headers."""
        return self.rng.choice(self.headers)

    def any_entry(self) -> dict[str, Any]:
        """An entry of one of the headers, or an empty one if that has none."""
        entries = [item for item in self.any_header().values() if isinstance(item, dict)]
        return self.rng.choice(entries or [{}])


@dataclass
class Tally:
    """The results of a run."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    mib: float = 0.0
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The results as lines to print."""
        counted = ", ".join(f"{words} {n:,}" for words, n in self.outcomes.most_common())
        return [
            f"{self.cases:,} checkpoints: {counted}; slowest {self.seconds:.2f} s, largest "
            f"{self.mib:.0f} MiB; {len(self.failures)} failures",
            *self.failures,
        ]


def make(rng: random.Random) -> Case:
    """A sound checkpoint of one to three files."""
    headers, data, places = [], [], {}
    count = rng.choice((1, 1, 2, 3))
    for number in range(count):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if rng.random() < 0.5 else {}
        position = 0
        for place in range(rng.randrange(5)):
            dtype = rng.choice(tuple(ITEM_BITS))
            shape = [rng.randrange(4) for _ in range(rng.randrange(4))] + [8] * (rng.random() < 0.9)
            elements = 1
            for side in shape:
                elements *= side
            end = position + elements * ITEM_BITS[dtype] // 8
            name = f"layers.{number}.{place}.weight"
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
            position, places[name] = end, _file_name(number, count)
            if dtype.startswith("F8") and rng.random() < 0.8:  # with a scale
                (numbers, width), ending = (
                    rng.choice((("F32", 4), ("F8_E8M0", 1))),
                    rng.choice(_SCALES),
                )
                header[f"{name}{ending}"] = {
                    "dtype": numbers,
                    "shape": rng.choice(([], [1], [1, 1], [*shape[:-2], 1, 1], [2, 2])),
                    "data_offsets": [position, position + width],
                }
                position, places[f"{name}{ending}"] = position + width, places[name]
        if count > 1 and rng.random() < 0.3:  # a tensor in several files: the index decides
            header["shared"] = {
                "dtype": "U8",
                "shape": [4],
                "data_offsets": [position, position + 4],
            }
            position += 4
            if rng.random() < 0.7:
                places["shared"] = _file_name(number, count)
        headers.append(header)
        data.append(rng.randbytes(position))
    case = Case(rng, headers, data)
    if count > 1 or rng.random() < 0.3:
        case.index = {"metadata": {"total_size": 0}, "weight_map": places}
    return case


def _file_name(number: int, count: int) -> str:
    return (
        f"model-{number + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
    )


def _dtype(case: Case) -> None:
    case.any_entry()["dtype"] = case.rng.choice((*ITEM_BITS, "Q4", "f32", "", 7, None))


def _shape(case: Case) -> None:
    entry, rng = case.any_entry(), case.rng
    many = rng.choice((1, 1, 1, 3, 60_000 if rng.random() < 0.02 else 5))
    entry["shape"] = rng.choice(([rng.choice(_NUMBERS) for _ in range(many)], "2", None, {"0": 1}))
    if many > 5:
        entry["shape"] = [2**64 - 1] * many + [0]


def _offsets(case: Case) -> None:
    entry, rng = case.any_entry(), case.rng
    old = [n for n in entry.get("data_offsets") or () if type(n) is int]
    shift = rng.choice((1, -1, 8, 2**63))
    entry["data_offsets"] = rng.choice(
        ([rng.choice(_NUMBERS), rng.choice(_NUMBERS)], [n + shift for n in old], old[:1], [*old, 0])
    )


def _fields(case: Case) -> None:
    entry, rng = case.any_entry(), case.rng
    if entry and rng.random() < 0.5:
        del entry[rng.choice(list(entry))]
    else:
        entry[rng.choice(("extra", "dtypes", "__metadata__"))] = rng.choice(_NUMBERS)


def _names(case: Case) -> None:
    header = case.any_header()
    if header:
        old = case.rng.choice(list(header))
        header[case.rng.choice(_NAMES)] = header.pop(old)


def _metadata(case: Case) -> None:
    values: tuple[Any, ...] = (
        {"a": 1},
        {"a": None},
        {},
        [],
        "pt",
        None,
        {"a": {"b": "c"}},
        {"a": "b\u0000"},
    )
    case.any_header()["__metadata__"] = case.rng.choice(values)


def _shared(case: Case) -> None:
    """Put the same tensor into two files."""
    entries = case.any_header()
    for name, item in list(entries.items())[:1]:
        case.any_header()[name] = item


def _index(case: Case) -> None:
    rng = case.rng
    if not isinstance(case.index, dict) or not isinstance(case.index.get("weight_map"), dict):
        case.index = rng.choice(([], {}, None, {"weight_map": []}, {"weight_map": {"a": 1}}))
        return
    weights = case.index["weight_map"]
    files = [
        "model.safetensors",
        "../x.safetensors",
        "/etc/passwd",
        "a\u0000",
        "",
        *weights.values(),
    ]
    name = rng.choice([*weights, *_NAMES])
    rng.choice(
        (
            lambda: weights.update({name: rng.choice(files)}),
            lambda: weights.pop(name, None),
            lambda: weights.update({name: rng.choice(_NUMBERS)}),
            lambda: case.index.update({"weight_map": rng.choice(_NUMBERS)}),
        )
    )()


def _config(case: Case) -> None:
    key = case.rng.choice(
        ("vocab_size", "eos_token_id", "architectures", "text_config", "head_dim")
    )
    value: Any = case.rng.choice((*_NUMBERS, {"hidden_size": "x"}, ["X"], [[]], -5))
    case.config = case.rng.choice(([], "x", None, {key: value}))


def _twice(case: Case) -> None:
    """Repeat a key in the text of a header."""
    place = case.rng.randrange(len(case.texts))
    text = case.texts[place]
    if text.startswith(b'{"'):
        first = text[1 : text.find(b"},") + 2] if b"}," in text else text[1:-1] + b","
        case.texts[place] = b"{" + first + text[1:]


def _spliced(case: Case) -> None:
    """Change, insert or remove bytes of a header."""
    place, rng = case.rng.randrange(len(case.texts)), case.rng
    text = case.texts[place]
    at = rng.randrange(len(text) + 1)
    put = rng.choice((rng.choice(_TEXTS), rng.randbytes(1), b""))
    case.texts[place] = text[:at] + put + text[at + rng.randrange(3) :]


def _padded(case: Case) -> None:
    place, rng = case.rng.randrange(len(case.texts)), case.rng
    blank = rng.choice((b" ", b"\n", b"\t\r", b"\x00", b"\x0c")) * rng.randrange(1, 9)
    case.texts[place] = rng.choice((blank + case.texts[place], case.texts[place] + blank))


def _bomb(case: Case) -> None:
    """Replace a header by one that is short to write and long to parse."""
    bombs: tuple[Callable[[], bytes], ...] = (
        lambda: b"[" * 100_000 + b"]" * 100_000,
        lambda: b"[" + b"[],[]," * 400_000 + b"[]]",
        lambda: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        lambda: b"1" * 1_000_000,
        lambda: b"[" + b'["data_offsets"],' * 100_000 + b"[]]",
        lambda: b'"' + b"\\u0041" * 200_000 + b'"',
    )
    value = case.rng.choice(bombs)()
    case.texts[case.rng.randrange(len(case.texts))] = case.rng.choice((value, b'{"a":%b}' % value))


def _cut(case: Case) -> None:
    place = case.rng.randrange(len(case.files))
    case.files[place] = case.files[place][: case.rng.randrange(len(case.files[place]) + 1)]


def _trailing(case: Case) -> None:
    case.files[case.rng.randrange(len(case.files))] += case.rng.randbytes(case.rng.randrange(1, 9))


def _length(case: Case) -> None:
    place, rng = case.rng.randrange(len(case.files)), case.rng
    length = rng.choice((0, 1, 2**63, 2**64 - 1, 100_000_001, rng.randrange(400)))
    case.files[place] = length.to_bytes(8, "little") + case.files[place][8:]


_ON_OBJECTS = (
    _dtype,
    _shape,
    _offsets,
    _fields,
    _names,
    _metadata,
    _shared,
    _index,
    _index,
    _config,
)
_ON_TEXTS = (_twice, _spliced, _spliced, _spliced, _padded)
_ON_FILES = (_cut, _trailing, _length)


def spoil(case: Case) -> None:
    """Mutate the case in a few ways."""
    rng = case.rng
    for mutation in rng.choices(_ON_OBJECTS, k=rng.choice((0, 0, 1, 1, 2))):
        mutation(case)
    case.texts = [json.dumps(header).encode() for header in case.headers]
    for mutation in rng.choices(_ON_TEXTS, k=rng.choice((0, 0, 0, 1, 2))):
        mutation(case)
    if rng.random() < 0.01:
        _bomb(case)
    case.files = [
        len(text).to_bytes(8, "little") + text + data
        for text, data in zip(case.texts, case.data, strict=True)
    ]
    for mutation in rng.choices(_ON_FILES, k=rng.choice((0, 0, 0, 0, 1))):
        mutation(case)


def write(case: Case, folder: Path) -> None:
    """Write the checkpoint to a folder."""
    (folder / "config.json").write_text(json.dumps(case.config))
    for number, content in enumerate(case.files):
        (folder / _file_name(number, len(case.files))).write_bytes(content)
    if case.index is not None:
        (folder / INDEX).write_text(json.dumps(case.index))


def check(folder: Path, tally: Tally) -> str | None:
    """Read a checkpoint with svdjobs and the library; return what is wrong, or None."""
    library = {path.name: _library(path) for path in folder.glob("*.safetensors")}
    store = LocalStore(folder)
    for key, expected in library.items():
        try:
            found = {entry.name for entry in read_header(store, key)}
        except SvdjobsError as error:
            if expected is not None and _sound(folder / key, expected):
                return f"{key} is refused, and the library reads it: {error}"
        else:
            if expected is None:
                return f"{key} is read, and the library refuses it"
            if found != expected.keys():
                return f"{key}: svdjobs reads {sorted(found)}, the library {sorted(expected)}"
    try:
        opened = read_checkpoint(store, "case")
    except SvdjobsError:
        tally.outcomes["refused"] += 1
        return None
    tally.outcomes["read"] += 1
    if problem := _differences(opened, folder, library):
        return problem
    _use(folder, tally)
    return None


def _use(folder: Path, tally: Tally) -> None:
    """Read every tensor, with its scales applied, if the checkpoint can be used."""
    try:
        opened = open_checkpoint(str(folder))
        for name in opened.entries:
            opened.read(name)
    except SvdjobsError:
        return
    tally.outcomes["used"] += 1


def _sound(path: Path, read: Read) -> bool:
    """Whether a file that the library reads also obeys the format and has printable names."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    data = path.read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    try:
        json.loads(header, object_pairs_hook=once)
    except AssertionError:
        return False
    return header.startswith(b"{") and all(name.isprintable() for name in read)


def _library(path: Path) -> Read | None:
    """The content of a file as the library reads it; None if the library refuses the file."""
    try:
        found = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError:
        return None
    return {name: (one["dtype"], list(one["shape"]), bytes(one["data"])) for name, one in found}


def _differences(opened: Checkpoint, folder: Path, library: dict[str, Read | None]) -> str | None:
    """A difference between the checkpoint as svdjobs reads it and its index or the library; None if
    there is none."""
    places: dict[str, str] = {}
    if (folder / INDEX).exists():
        places = json.loads((folder / INDEX).read_text())["weight_map"]
    else:
        places = {name: key for key, read in library.items() for name in read or ()}
    if opened.entries.keys() != places.keys():
        return f"tensors {sorted(opened.entries)}, expected {sorted(places)}"
    for name, entry in opened.entries.items():
        read = library[places[name]]
        if read is None:
            return f"{name} is read from {places[name]}, which the library refuses"
        dtype, shape, data = read[name]
        ours = bytes(opened.store.read(entry.key, entry.start, entry.start + entry.bytes))
        if (entry.dtype, list(entry.shape), ours) != (dtype, shape, data):
            return f"{name}: {entry} is not what the library reads: {dtype}, {shape}"
    return None


def one(seed: int, number: int, tally: Tally) -> None:
    """Make, read and check one case."""
    case = make(random.Random(f"{seed}/{number}"))
    spoil(case)
    with tempfile.TemporaryDirectory(prefix="svdjobs-fuzz-") as name:
        write(case, Path(name))
        resident = forget_peak()
        started = time.perf_counter()
        try:
            problem = check(Path(name), tally)
        except Exception:
            problem = traceback.format_exc()
        seconds, mib = time.perf_counter() - started, max(0.0, status("VmHWM") - resident)
    if seconds > MOST_SECONDS:
        problem = problem or f"took {seconds:.1f} s"
    if mib > MOST_MIB:
        problem = problem or f"took {mib:.0f} MiB"
    tally.cases += 1
    tally.seconds, tally.mib = max(tally.seconds, seconds), max(tally.mib, mib)
    if problem:
        tally.failures.append(f"--seed {seed}, case {number}: {problem}")


def forget_peak() -> float:
    """Reset the kernel's record of this process's peak memory; return the MiB in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> float:
    """A value of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def run(count: int, seed: int) -> Tally:
    """Read `count` mutated checkpoints."""
    import torch  # noqa: F401  # imported here, so that the first case is not timed with it

    tally = Tally()
    for number in range(count):
        one(seed, number, tally)
    return tally


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tally = run(arguments.count, arguments.seed)
    print("\n".join(tally.lines()))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
