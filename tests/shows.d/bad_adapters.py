"""ESFT adapters that are wrong, made of a good one: what stands in a directory that nobody should serve. Only the standard library."""

import hashlib
import json
import os
import pathlib
import shutil
import struct

CONFIG, INDEX, MANIFEST = "expert_cfg.json", "model.safetensors.index.json", "SHA256SUMS"


class Adapter:
    """A copy of a good adapter, to be spoilt. `tensors` is {name: [type, shape, bytes]}, all of them in one file."""

    def __init__(self, good, directory):
        self.directory = pathlib.Path(directory)
        shutil.copytree(good, self.directory)
        self.weights = next(self.directory.glob("*.safetensors"))
        self.config = json.loads((self.directory / CONFIG).read_text())
        data = self.weights.read_bytes()
        begin = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        self.tensors = {name: [entry["dtype"], entry["shape"], data[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]]]
                        for name, entry in header.items()}

    def write(self, index=True):
        (self.directory / CONFIG).write_text(json.dumps(self.config))
        header, data = {}, b""
        for name, (kind, shape, numbers) in self.tensors.items():
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(numbers)]}
            data += numbers
        text = json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + data)
        if index:
            (self.directory / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(self.tensors, self.weights.name)}))
        else:
            (self.directory / INDEX).unlink(missing_ok=True)

    def layer(self):
        """The first layer with two experts or more."""
        return next(layer for layer, slots in self.config["experts"].items() if len(slots) > 1)

    def matrix(self, kind="up_proj"):
        """The name of a matrix of the first expert of that layer."""
        layer = self.layer()
        return next(name for name in self.tensors if f"layers.{layer}.mlp.experts.{self.config['experts'][layer][0]}.{kind}" in name)


def configs():
    """(what is wrong, how, part of what is said), of expert_cfg.json."""
    def edit(change):
        def spoil(a):
            change(a.config, a.config["experts"])
            a.write()
        return spoil

    def text(make):
        return lambda a: (a.directory / CONFIG).write_text(make(json.dumps(a.config)))

    def set_key(key, value):
        return edit(lambda config, _: config.__setitem__(key, value))

    def first(change):
        return edit(lambda _, experts: change(next(slots for slots in experts.values() if len(slots) > 1)))

    yield "no config", lambda a: (a.directory / CONFIG).unlink(), CONFIG
    yield "an empty config", text(lambda _: ""), "not JSON"
    yield "a config that is cut", text(lambda t: t[:len(t) // 2]), "not JSON"
    yield "a list for a config", text(lambda t: f"[{t}]"), "is an array"
    yield "no experts", edit(lambda config, _: config.pop("experts")), "/experts is missing"
    yield "nothing replaced", set_key("experts", {}), "nothing to replace"
    yield "an unknown key", set_key("delta", True), "delta"
    yield "a flag that is a word", set_key("shared_experts", "no"), "/shared_experts"
    yield "changed attention", set_key("non_expert_modules", True), "/non_expert_modules"
    yield "shared experts that are not there", set_key("shared_experts", True), "/shared_experts"
    yield "a layer out of range", edit(lambda _, experts: experts.__setitem__("99", [1])), "/experts/99"
    yield "a layer without experts", edit(lambda _, experts: experts.__setitem__("0", [1])), "/experts/0"
    yield "a layer below zero", edit(lambda _, experts: experts.__setitem__("-1", [1])), "/experts/-1"
    yield "a layer that is a word", edit(lambda _, experts: experts.__setitem__("last", [1])), "/experts/last"
    yield "a layer twice", text(lambda t: t.replace('"experts": {', '"experts": {"1": [], ')), "appears twice"
    yield "an expert out of range", first(lambda slots: slots.append(4096)), "4096"
    yield "an expert below zero", first(lambda slots: slots.append(-1)), "-1"
    yield "an expert that is no integer", first(lambda slots: slots.append(2.5)), "2.5"
    yield "an expert in quotes", first(lambda slots: slots.append("3")), "is a string"
    yield "an expert twice", first(lambda slots: slots.append(slots[0])), "twice"
    yield "an expert of a hundred digits", first(lambda slots: slots.append(10 ** 100)), "no slot"
    yield "10^6 experts", first(lambda slots: slots.extend(range(10 ** 6))), "the limit"


def tensors():
    """The same of the tensors."""
    def edit(change, index=True):
        def spoil(a):
            change(a)
            a.write(index)
        return spoil

    def of(matrix, change):
        return edit(lambda a: change(a.tensors[a.matrix(matrix)]))

    def first_number(a, bits):
        entry = a.tensors[a.matrix()]
        size = 4 if entry[0] == "F32" else 2
        entry[2] = bits[entry[0]].to_bytes(size, "little") + entry[2][size:]

    def drop(a, part):
        for name in [name for name in a.tensors if part in name]:
            del a.tensors[name]

    def swap(a):
        up, down = a.matrix("up_proj"), a.matrix("down_proj")
        a.tensors[up], a.tensors[down] = a.tensors[down], a.tensors[up]

    def rename(a, make):
        name = a.matrix()
        a.tensors[make(name)] = a.tensors.pop(name)

    yield "no tensors", lambda a: a.weights.unlink(), "safetensors"
    yield "a missing matrix", edit(lambda a: a.tensors.pop(a.matrix())), "needs tensor"
    yield "a missing expert", edit(lambda a: drop(a, a.matrix().rsplit(".", 2)[0])), "needs tensor"
    yield "an expert more", edit(lambda a: a.config["experts"][a.layer()].pop()), "is of no expert"
    yield "a gate", edit(lambda a: a.tensors.__setitem__(f"layers.{a.layer()}.mlp.gate.weight", ["F16", [1], b"xx"])), "gate.weight"
    yield "swapped matrices", edit(swap), "has shape"
    yield "a transposed matrix", of("up_proj", lambda t: t[1].reverse()), "has shape"
    yield "a rank too many", of("up_proj", lambda t: t[1].insert(0, 1)), "has shape"
    yield "a rank of thousands", of("up_proj", lambda t: t[1].extend([1] * 4000)), "dimensions"
    yield "integers", of("up_proj", lambda t: t.__setitem__(0, "I32" if t[0] == "F32" else "I16")), "supported: F32, F16, BF16"
    yield "a NaN", edit(lambda a: first_number(a, {"F32": 0x7fc00000, "F16": 0x7e00, "BF16": 0x7fc0})), "not finite"
    yield "an infinity", edit(lambda a: first_number(a, {"F32": 0x7f800000, "F16": 0x7c00, "BF16": 0x7f80})), "not finite"
    yield "names with and without model.", edit(lambda a: rename(a, lambda n: n[6:] if n.startswith("model.") else f"model.{n}")), "model."


def files():
    """The same of the files."""
    def weights(change):
        return lambda a: a.weights.write_bytes(change(a.weights.read_bytes()))

    def instead(name, make):
        def spoil(a):
            path = a.weights if name is None else a.directory / name
            path.unlink(missing_ok=True)
            make(path)
        return spoil

    def index(change):
        def spoil(a):
            names = dict.fromkeys(a.tensors, a.weights.name)
            change(a, names)
            (a.directory / INDEX).write_text(json.dumps({"weight_map": names}))
        return spoil

    def manifest(a):
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(a.directory.iterdir())]
        (a.directory / MANIFEST).write_text("".join(lines).replace(lines[0][:4], "beef" if lines[0][:4] != "beef" else "cafe", 1))

    yield "an empty file", weights(lambda data: b""), "0 bytes"
    yield "a file cut in its header", weights(lambda data: data[:100]), "truncated"
    yield "a file cut in half", weights(lambda data: data[:len(data) // 2]), "the file has"
    yield "a file that lacks a byte", weights(lambda data: data[:-1]), "the file has"
    yield "a file with more behind it", weights(lambda data: data + b"more"), "belong to no tensor"
    yield "half of its files", index(lambda a, names: names.__setitem__(a.matrix(), "model-00002-of-000002.safetensors")), "00002"
    yield "an index that lacks a tensor", index(lambda a, names: names.pop(a.matrix())), "does not name"
    yield "tensors elsewhere", instead(None, lambda path: path.symlink_to("/etc/hostname")), "leads out of the directory"
    yield "a config elsewhere", instead(CONFIG, lambda path: path.symlink_to("/etc/passwd")), "leads out of the directory"
    yield "a link to nothing", instead(None, lambda path: path.symlink_to("gone")), "cannot be followed"
    yield "a directory for tensors", instead(None, lambda path: path.mkdir()), "not a regular file"
    yield "a pipe for a config", instead(CONFIG, os.mkfifo), "not a regular file"
    yield "a pipe for tensors", instead(None, os.mkfifo), "not a regular file"
    yield "a manifest of other bytes", manifest, "SHA-256"


def bad_adapters(good, folder):
    """(what is wrong, its directory, part of what has to be said) of each, in directories under `folder`."""
    for number, (name, spoil, said) in enumerate([*configs(), *tensors(), *files()]):
        adapter = Adapter(good, pathlib.Path(folder) / f"bad{number:02}")
        spoil(adapter)
        yield name, adapter.directory, said
