"""Checkpoints nobody should trust, and what is said of each: `python -m tests.models.test_untrusted` prints it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from safetensors.numpy import load_file, save_file

from models import huggingface
from models.huggingface import files, weights_in

DATA = Path(__file__).parents[1] / "data" / "llama4"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBED, ROUTER = "model.embed_tokens.weight", "model.layers.0.feed_forward.router.weight"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
Mutation = Callable[[Path], object]


def header(change: Callable[[dict], object]) -> Mutation:
    """Changes the header of the weights and nothing else."""

    def mutate(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        found = json.loads(raw[8 : 8 + size])
        change(found)
        put_header(folder, json.dumps(found).encode(), raw[8 + size :])

    return mutate


def put_header(folder: Path, text: bytes, data: bytes = b"", size: int | None = None) -> None:
    """Weights with this header, which claims to be of this size."""
    (folder / WEIGHTS).write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)


def entry(**change: object) -> Mutation:
    """Changes what the header says of the embedding."""
    return header(lambda found: found[EMBED].update(change))


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Mutation:
    """Writes the weights again, changed."""

    def mutate(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return mutate


def config(**change: object) -> Mutation:
    """Changes config.json; None takes a field out."""

    def mutate(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return mutate


def inner(part: str, **change: object) -> Mutation:
    """Makes the checkpoint multimodal and changes a part of its config.json."""

    def mutate(folder: Path) -> None:
        raw = json.loads((DATA / "mm_tiny" / "config.json").read_text())
        raw[part] |= change
        (folder / "config.json").write_text(json.dumps(raw))

    return mutate


def write(name: str, text: str | bytes) -> Mutation:
    """Writes a file."""
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def shards(change: Callable[[Path, dict[str, str]], object] = lambda folder, places: None) -> Mutation:
    """Cuts the weights in two, and changes the folder or the index."""

    def mutate(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(found)
        places = {name: ONE if at < len(names) // 2 else TWO for at, name in enumerate(names)}
        for shard in (ONE, TWO):
            save_file({name: found[name] for name in names if places[name] == shard}, folder / shard)
        change(folder, places)
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))

    return mutate


def cut(name: str, size: int) -> Callable[..., None]:
    """Takes bytes off the end of a file."""
    return lambda folder, *_: os.truncate(folder / name, (folder / name).stat().st_size - size)


def link(folder: Path, *_: object) -> None:
    """The second shard becomes a link to a file outside."""
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / TWO, outside)
    (folder / TWO).symlink_to(outside)


def both(*mutations: Mutation) -> Mutation:
    """One after the other."""
    return lambda folder: [mutate(folder) for mutate in mutations]


def pickled(name: str) -> Mutation:
    """Weights are only there as a pickle, which says so if it is ever run."""
    danger = b"cbuiltins\nexec\n(S'raise SystemExit(77)'\ntR."
    return both(lambda folder: (folder / WEIGHTS).unlink(), write(name, danger))


def replaced(name: str, value: object) -> Mutation:
    """One of the tensors becomes another."""
    return tensors(lambda found: found.update({name: value}))


def spoiled(name: str, value: float) -> Mutation:
    """One weight becomes another."""
    return tensors(lambda found: found[name].__setitem__((-1, -1), value))


DEEP = "[" * 100_000
HUGE = json.dumps({f"x{n}": 0 for n in range(2_000_000)})
BAD: dict[str, tuple[Mutation, str]] = {
    # The folder.
    "nothing there": (shutil.rmtree, "has no config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "lacks model.safetensors and"),
    "pickles only": (pickled("pytorch_model.bin"), "weights as pickles, which are never read"),
    "Meta's own layout": (pickled("consolidated.00.pth"), "Meta's own layout.*never read; convert it with"),
    "Meta's parameters": (
        both(write("params.json", "{}"), lambda folder: (folder / "config.json").unlink()),
        r"no config.json \(params.json is of Meta's own layout\)",
    ),
    "single file and index": (write(INDEX, "{}"), "has both model.safetensors and"),
    "weights are a folder": (
        both(lambda folder: (folder / WEIGHTS).unlink(), lambda folder: (folder / WEIGHTS).mkdir()),
        "is not a regular file",
    ),
    "weights are a pipe": (
        both(lambda folder: (folder / WEIGHTS).unlink(), lambda folder: os.mkfifo(folder / WEIGHTS)),
        "is not a regular file",
    ),
    # The header of a file.
    "empty file": (write(WEIGHTS, b""), "is 0 bytes and its header claims 0"),
    "not safetensors": (write(WEIGHTS, b"GGUF" + bytes(100)), "it is cut short or no safetensors file"),
    "header longer than the file": (lambda f: put_header(f, b"{}", size=10**9), "header claims 1000000000"),
    "absurd header size": (lambda f: put_header(f, b"{}", size=2**64 - 1), "header claims 18446744073709551615"),
    "huge header": (lambda f: put_header(f, HUGE.encode()), "are the most that is read"),
    "header not JSON": (lambda f: put_header(f, b"{'a': 1}"), "does not hold proper JSON"),
    "header not text": (lambda f: put_header(f, b"\xff\xfe{}"), "does not hold proper JSON"),
    "header a list": (lambda f: put_header(f, b"[]"), "JSON list where an object is due"),
    "header nested deep": (lambda f: put_header(f, DEEP.encode()), "does not hold proper JSON .*recursion"),
    "header says NaN": (lambda f: put_header(f, b'{"a": NaN}'), "NaN is no number"),
    "duplicate name": (lambda f: put_header(f, b'{"a": 1, "b": 2, "a": 3}'), "it has 'a' twice"),
    "unprintable name": (header(lambda found: found.update({"\x1b[2J": 1})), "a name must be printable"),
    "endless name": (header(lambda found: found.update({"a" * 1000: 1})), "of at most 256 letters"),
    "entry a number": (header(lambda found: found.update({EMBED: 1})), "describes model.embed_tokens.weight as 1"),
    "entry without offsets": (header(lambda found: found[EMBED].pop("data_offsets")), "must have dtype, shape and"),
    "negative offset": (entry(data_offsets=[-4, 40956]), "in whole numbers"),
    "fractional shape": (entry(shape=[160.0, 64]), "in whole numbers"),
    "shape of true": (entry(shape=[True, 10240]), "in whole numbers"),
    "ten thousand axes": (entry(shape=[1] * 10_000), "in whole numbers"),
    "astronomical shape": (entry(shape=[2**61, 2**61]), r"gives model.embed_tokens.weight the bytes .* takes 2"),
    "unknown dtype": (entry(dtype="Q4_K"), "as 'Q4_K'; only F32, F16, BF16 are read"),
    "eight-bit floats": (entry(dtype="F8_E4M3"), "as 'F8_E4M3'.*of a quantised checkpoint, take the original"),
    "dtype a list": (entry(dtype=["F32"]), "as a list of 1; only"),
    "dtype contradicts the bytes": (entry(dtype="F16"), r"gives model.embed_tokens.weight the bytes"),
    "overlapping tensors": (
        header(lambda found: found.update(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})),
        "side by side, without gap or overlap",
    ),
    "gap between tensors": (header(lambda found: found.pop(ROUTER)), "side by side, without gap or overlap"),
    "truncated weights": (cut(WEIGHTS, 1), "but its tensors end at byte"),
    "bytes after the last tensor": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"!"),
        "but its tensors end at byte",
    ),
    # The index.
    "index not JSON": (both(shards(), write(INDEX, "weights")), "does not hold proper JSON"),
    "index without places": (both(shards(), write(INDEX, '{"metadata": {}}')), "has no weight_map"),
    "index a list of places": (both(shards(), write(INDEX, '{"weight_map": [1]}')), "has no weight_map"),
    "place a number": (shards(lambda folder, found: found.update({EMBED: 7})), "places .* in 7; it must be the name"),
    "place above": (shards(lambda folder, found: found.update({EMBED: "../a.safetensors"})), "a file beside it"),
    "place absolute": (shards(lambda folder, found: found.update({EMBED: "/etc/passwd"})), "a file beside it"),
    "place below": (shards(lambda folder, found: found.update({EMBED: "a/b.safetensors"})), "a file beside it"),
    "place is the folder": (shards(lambda folder, found: found.update({EMBED: ".."})), "a file beside it"),
    "place an endless name": (
        shards(lambda folder, found: found.update({EMBED: "a" * 300 + ".safetensors"})),
        "it must be the name of a file beside it",
    ),
    "place a pickle": (shards(lambda folder, found: found.update({EMBED: "a.bin"})), "never pickles"),
    "shard a link to outside": (shards(link), "is a link to .*, outside its folder"),
    "missing shard": (shards(lambda folder, _: (folder / TWO).unlink()), f"lacks {TWO}; download the whole"),
    "truncated shard": (shards(cut(TWO, 100)), f"{TWO} is .* bytes, but its tensors end"),
    "index names a tensor too many": (shards(lambda _, found: found.update(a=ONE)), f"says that a is in {ONE}, which"),
    "index names another shard": (shards(lambda _, found: found.update({EMBED: TWO})), f"in {TWO}, but it is in {ONE}"),
    "tensor in two shards": (
        shards(lambda folder, _: save_file(load_file(folder / ONE), folder / TWO)),
        f"twice, in {ONE} and in {TWO}",
    ),
    # Tensors against the configuration.
    "missing tensor": (tensors(lambda found: found.pop(ROUTER)), "1 missing .*router.weight.*, 0 unknown"),
    "unknown tensor": (tensors(lambda found: found.update(a=np.ones(1))), "only F32, F16, BF16"),
    "unknown tensor, of floats": (
        tensors(lambda found: found.update(a=np.ones(1, np.float32))),
        r"0 missing \[\], 1 unknown \['a'\]",
    ),
    "wrong shape": (replaced(ROUTER, np.ones((64, 4), np.float32)), r"is of shape \(64, 4\); .* must be \(4, 64\)"),
    "no axes": (replaced(ROUTER, np.ones((), np.float32)), r"is of shape \(\); .* must be \(4, 64\)"),
    "no elements": (replaced(ROUTER, np.ones((0, 64), np.float32)), r"is of shape \(0, 64\)"),
    "NaN weight": (spoiled(ROUTER, np.nan), "router.weight in .* has weights that are NaN or infinite"),
    "infinite weight": (spoiled(EMBED, -np.inf), "embed_tokens.weight in .* NaN or infinite"),
    "wider by the config": (config(hidden_size=128), r"by config.json it must be \(160, 128\)"),
    "more layers by the config": (
        config(num_hidden_layers=4096, moe_layers=None, no_rope_layers=None, layer_types=None),
        "missing .*, 0 unknown",
    ),
    "more experts by the config": (config(num_local_experts=8), "by config.json it must be"),
    "a tower by the config": (inner("text_config"), "missing"),
    # The configuration.
    "config not JSON": (write("config.json", "{"), "does not hold proper JSON"),
    "config a list": (write("config.json", "[]"), "JSON list where an object is due"),
    "config nested deep": (write("config.json", DEEP), "does not hold proper JSON"),
    "config huge": (write("config.json", HUGE), "are the most that is read"),
    "not a Llama 4": (config(model_type="llama"), "model_type 'llama'; it must be llama4 or llama4_text"),
    "model type a list": (config(model_type=["llama4"]), "model_type a list of 1"),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000; .* from 1 to 4096"),
    "an endless number of heads": (config(num_attention_heads=10**300), r"num_attention_heads = 10+\.\.\.; it must"),
    "no experts": (config(num_local_experts=0), "num_local_experts = 0; .* from 1 to"),
    "negative width": (config(hidden_size=-64), "hidden_size = -64"),
    "width a text": (config(hidden_size="64"), "hidden_size = '64'"),
    "width a fraction": (config(hidden_size=64.5), "hidden_size = 64.5"),
    "width true": (config(hidden_size=True), "hidden_size = True"),
    "width a list": (config(hidden_size=[64]), "hidden_size = a list of 1"),
    "width missing": (config(hidden_size=None), "lacks hidden_size"),
    "eps a text": (config(rms_norm_eps="small"), "rms_norm_eps = 'small'; it must be a number"),
    "eps negative": (config(rms_norm_eps=-1.0), "must have rope_theta > 1 and eps > 0"),
    "norm a text": (config(use_qk_norm="yes"), "use_qk_norm = 'yes'; it must be true or false"),
    "tuning a text": (config(attn_temperature_tuning="yes"), "attn_temperature_tuning = 'yes'"),
    "floor of nothing": (config(floor_scale=0), "floor_scale = 0; .* from 1 to"),
    "layer list of texts": (config(no_rope_layers=["1"] * 8), "it must list whole numbers below 2"),
    "layer list too short": (config(no_rope_layers=[1]), "lists 1 no_rope_layers for 8 layers"),
    "masks unlike the turns": (config(layer_types=["full_attention"] * 8), "layer_types = a list of 8 that are not"),
    "masks a text": (config(layer_types="banana"), "layer_types = 'banana' that are not those of its no_rope_layers"),
    "floor a fraction": (config(floor_scale=4.9), "floor_scale = 4.9; it must be a whole number"),
    "experts in a layer that is not": (config(moe_layers=[8]), "moe_layers = .* below 8"),
    "rope a list": (config(rope_parameters=[1]), "rope_parameters = a list of 1; it must be an object"),
    "rope without theta": (config(rope_parameters={"rope_type": "default"}), "lacks rope_theta"),
    "rope of another kind": (config(rope_parameters={"rope_type": {}, "rope_theta": 1e4}), "rope_type a dict of 0"),
    "quantised": (config(quantization_config={"quant_method": "fp8"}), "quantised checkpoints are not read"),
    "tower a text": (inner("vision_config", hidden_size="wide"), "hidden_size = 'wide'"),
    "tower of a trillion": (inner("vision_config", image_size=10**12), "image_size = 1000000000000"),
    "tower of other sizes": (inner("vision_config", projector_input_dim=5), "projector_input_dim = 5; this model only"),
    "tower that shuffles all": (inner("vision_config", pixel_shuffle_ratio=1e-310), "Vision.ratio = 1e-310"),
    "tower that does not shuffle": (inner("vision_config", pixel_shuffle_ratio=0.3), "Vision.ratio = 0.3"),
    "text of another kind": (inner("text_config", model_type="gpt2"), "a text_config of 'gpt2'"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint."""
    return fresh(tmp_path / "checkpoint")


def fresh(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", WEIGHTS):
        shutil.copy(DATA / "scout_tiny" / name, folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_refused(folder, name):
    mutate, message = BAD[name]
    mutate(folder)
    with pytest.raises(ValueError, match=message):
        huggingface.load(folder)


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("NaN weight", "infinite weight")])
def test_it_is_refused_before_any_weight_is_read(folder, name, monkeypatch):
    BAD[name][0](folder)
    monkeypatch.setattr(files.Tensor, "rows", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(ValueError):
        huggingface.load(folder)


def test_a_number_too_large_for_the_dtype_is_refused(folder):
    spoiled(ROUTER, 1e6)(folder)
    with pytest.raises(ValueError, match="has weights too large for float16; load it in bfloat16 or float32"):
        huggingface.load(folder, dtype="float16")


def test_a_dtype_that_is_none_is_refused(folder):
    with pytest.raises(ValueError, match="dtype is 'int8'; it must be one of float32, bfloat16, float16"):
        huggingface.load(folder, dtype="int8")


def test_a_file_cut_short_while_it_is_read_is_refused(folder):
    checkpoint = huggingface.open_checkpoint(folder)
    cut(WEIGHTS, 100_000)(folder)
    last = max(checkpoint.sources.values(), key=lambda source: source.tensor.start)
    with pytest.raises(ValueError, match="was cut short while .* was read; download it again"):
        list(weights_in.pieces(last, np.dtype(np.float32)))


def test_a_snapshot_of_the_hub_cache_may_link_to_its_blobs(tmp_path):
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs").mkdir()
    folder = fresh(tmp_path / "snapshots" / "abc")
    shutil.move(folder / WEIGHTS, tmp_path / "blobs" / "123")
    (folder / WEIGHTS).symlink_to(Path("..") / ".." / "blobs" / "123")
    assert huggingface.open_checkpoint(folder).bytes > 0


def test_code_that_a_config_names_is_never_looked_for(folder):
    config(auto_map={"AutoModel": "evil.Model"}, trust_remote_code=True)(folder)
    write("evil.py", "raise SystemExit(77)")(folder)
    assert huggingface.read_config(folder) == huggingface.read_config(DATA / "scout_tiny")


def test_absurd_sizes_cost_neither_memory_nor_time(folder):
    config(num_hidden_layers=4096, vocab_size=2**24, num_local_experts=2**24, moe_layers=None, no_rope_layers=None)(
        folder
    )
    code = f"""
import resource, time
from models import huggingface
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    huggingface.load({str(folder)!r})
except ValueError:
    pass
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
assert time.monotonic() - start < 20
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DATA.parents[2])
    assert done.returncode == 0, done.stderr


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=150, deadline=2000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def survives(read: Callable[[], object]) -> None:
    """It works or says, in our words, why not; anything else fails the test."""
    try:
        read()
    except ValueError as error:
        assert len(str(error)) > 20, error


@FUZZ
@given(some.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw):
    with tempfile.TemporaryDirectory() as home:
        for name, read in (("a.safetensors", files.read_header), (INDEX, files.read_index), ("c", files.read_json)):
            path = Path(home) / name
            path.write_bytes(raw)
            survives(partial(read, path))


@FUZZ
@given(some.dictionaries(some.text(max_size=8), JSON, max_size=4), some.binary(max_size=64))
def test_any_header_is_read_or_refused(found, data):
    with tempfile.TemporaryDirectory() as home:
        put_header(Path(home), json.dumps(found).encode(), data)
        survives(lambda: files.read_header(Path(home) / WEIGHTS))


OFFSETS = some.lists(some.integers(-8, 200), max_size=3) | JSON
ENTRY = some.fixed_dictionaries(
    {"dtype": some.sampled_from(["F32", "BF16", "I8", ""]) | JSON, "shape": OFFSETS, "data_offsets": OFFSETS}
)


@FUZZ
@given(some.dictionaries(some.sampled_from("abcd"), ENTRY), some.binary(max_size=64))
def test_any_entries_of_a_header_are_read_or_refused(found, data):
    with tempfile.TemporaryDirectory() as home:
        put_header(Path(home), json.dumps(found).encode(), data)
        survives(lambda: files.read_header(Path(home) / WEIGHTS))


@FUZZ
@given(some.dictionaries(some.text(max_size=8) | some.just(EMBED), some.text(max_size=12) | JSON, max_size=4))
def test_any_index_is_read_or_refused(places):
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / INDEX).write_text(json.dumps({"weight_map": places}))
        survives(lambda: files.open_tensors(Path(home)))


@pytest.mark.parametrize("case", ["scout_tiny", "mm_tiny"])
def test_any_config_is_read_or_refused(case):
    raw = json.loads((DATA / case / "config.json").read_text())
    parts = [raw, *(raw[part] for part in ("text_config", "vision_config") if part in raw)]
    fields = [(at, name) for at, part in enumerate(parts) for name in part]
    odd = JSON | some.integers(0, 9) | some.sampled_from([10**30, 2**63, 0.5, 1e300, -1, [1], [0] * 9, "llama3"])

    @FUZZ
    @given(some.lists(some.tuples(some.sampled_from(fields), odd | some.none()), max_size=3))
    def fuzz(changes):
        found = json.loads(json.dumps(raw))
        places = [found, *(found[part] for part in ("text_config", "vision_config") if part in found)]
        for (at, name), value in changes:
            places[at][name] = value
        survives(lambda: huggingface.parse_config(json.loads(json.dumps(found))))

    fuzz()


@FUZZ
@given(some.integers(0, 4000), some.binary(min_size=1, max_size=8))
def test_a_header_with_any_bytes_changed_is_read_or_refused(at, changed):
    with tempfile.TemporaryDirectory() as home:
        found = load_file(DATA / "scout_tiny" / WEIGHTS)
        some_of_it = {name: tensor[:2] for name, tensor in list(found.items())[:20]}
        save_file(some_of_it, Path(home) / WEIGHTS)
        with open(Path(home) / WEIGHTS, "r+b") as file:
            file.seek(at % (Path(home) / WEIGHTS).stat().st_size)
            file.write(changed)
        survives(lambda: files.read_header(Path(home) / WEIGHTS))


def main() -> None:
    """Prints every bad checkpoint with its message."""
    with tempfile.TemporaryDirectory() as home:
        for number, (name, (mutate, _)) in enumerate(BAD.items(), start=1):
            folder = fresh(Path(home) / str(number))
            mutate(folder)
            try:
                huggingface.load(folder)
                print(f"{number:3} {name}: READ")
            except ValueError as error:
                print(f"{number:3} {name}: {str(error).replace(str(folder) + '/', '').replace(str(folder), 'folder')}")


if __name__ == "__main__":
    main()
