"""A store says what the teacher said, is whole or says what it lacks, and is nobody else's."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Mesh, load_weights, rows, store, stored, targets
from distill.capture import Capture, _shared
from distill.ceiling import Ceiling
from distill.checkpoint import Checkpoints
from distill.data.source import Folder
from distill.fingerprint import fingerprint, identify
from distill.hold import Rounded
from distill.items import named_leaves
from distill.launch import run_experiment
from distill.metrics import Metrics
from distill.reading import stage_batches, stage_loader
from distill.rollout import OnPolicy
from distill.room import Room
from distill.rows import Rows, StoredBatches
from distill.run import Run
from distill.state import create
from distill.stored import Store
from distill.targets import Form
from distill.teacher import LiveTeacher, StoredTeacher
from distill.trained import identity
from losses import Dense, Distill, ForwardKL, NoGate, Top
from losses.sparse import top_k
from models.execution import Execution
from tests.distill.small import MOE, WIDE, assert_close, experiment, interrupt, learner, stage

BYTES = replace(MOE, vocab=272)
FORM = Form(count=5, dtype="float32", vocab=272, length=16)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(str(n) for n in random.integers(0, 9, 60)))
    return folder


def asked(text, form=FORM, seed=3, shard=2, **changes):
    """A capture of six batches of four rows."""
    teach = stage(learner("teacher", model=replace(WIDE, vocab=272)), name="teach", steps=2, rows=4)
    distil = stage(learner(model=BYTES), name="distil", teacher="teacher", steps=6, rows=4, stream=1)
    one = experiment(stages=(teach, distil), corpus=Folder(str(text)), **changes)
    weights = create(teach.learners[0], 1, Mesh().build(), seed).weights
    return Capture(one, distil, name_of(weights), weights, form, shard)


def name_of(weights):
    return identify(weights.model.config, fingerprint(named_leaves(weights)))


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "whole"
    asked(text).run(Store(folder), quiet=True)
    return folder


def on_device(batch):
    return jax.tree.map(jnp.asarray, batch)


def read(folder):
    known = Rows(Store(folder))
    return [known[i] for i in range(len(known))]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_batch_of_the_store_is_the_batch_and_what_the_teacher_says_of_it(text, whole):
    capture = asked(text)
    live = LiveTeacher(capture.weights, Execution())
    batches = stage_loader(capture.experiment, capture.stage).batches(capture.experiment.corpus)
    for found in map(on_device, StoredBatches(Rows(Store(whole)), 4)):
        want = on_device(next(batches))
        for name in ("tokens", "labels", "mask", "segments", "positions"):
            np.testing.assert_array_equal(vars(found)[name], vars(want)[name])
        coarse = top_k(live.signal(want), jnp.where(want.mask, want.labels, 0), 5)
        assert_close(found.targets, coarse)
        assert_close(StoredTeacher().signal(found).belief(want.labels), coarse.judged)


def test_a_student_of_the_store_learns_what_one_of_the_live_teacher_seen_as_coarsely_does(text, whole):
    capture = asked(text)
    found = on_device(next(StoredBatches(Rows(Store(whole)), 4)))
    hidden = jax.random.normal(jax.random.key(0), (4, 16, 8))
    head = jax.random.normal(jax.random.key(1), (8, 272))
    slopes = []
    for signal, lens in ((found.targets, Distill().lens), (LiveTeacher(capture.weights).signal(found), Top(k=5))):
        loss = Distill(gate=Distill().gate, lens=lens, chunk=4)
        slopes.append(
            jax.grad(lambda h, s=signal, f=loss: f(h, head, s, jnp.asarray(found.labels), found.place(), 0.0)[0].total)(
                hidden
            )
        )
    assert_close(*slopes)


@pytest.mark.parametrize("vocab", [200, 272, 70000])
@pytest.mark.parametrize(("kind", "known"), [("top_k", 0), ("sampled", 0), ("sampled", 2)])
def test_what_is_packed_is_unpacked(vocab, kind, known):
    form = Form(kind=kind, count=3, known=known, dtype="float32", vocab=vocab, length=7)
    random = np.random.default_rng(0)
    row = {
        name: random.integers(0, vocab if dtype == "id" else 100, shape)
        if dtype != "float32"
        else random.normal(size=shape).astype(np.float32)
        for name, (dtype, shape) in form.fields.items()
    }
    raw = form.pack(row)
    assert len(raw) == form.record_bytes
    for name, array in form.unpack(raw).items():
        np.testing.assert_array_equal(array, row[name], err_msg=name)
    with pytest.raises(ValueError, match="where .* were expected"):
        form.unpack(raw[:-1])


def test_sixteen_bits_keep_a_distribution_and_lose_little(text, tmp_path):
    capture = asked(text, replace(FORM, dtype="float16"))
    capture.run(Store(tmp_path / "narrow"), quiet=True)
    found = on_device(next(StoredBatches(Rows(Store(tmp_path / "narrow")), 4)))
    signal = found.targets
    total = np.exp(signal.log_probs).sum(-1) + np.exp(signal.rest)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    live = LiveTeacher(capture.weights).signal(found)
    exact = top_k(live, jnp.where(found.mask, found.labels, 0), 5)
    np.testing.assert_allclose(np.exp(signal.log_probs), np.exp(exact.log_probs), atol=1e-3)
    # At the teacher itself the loss is nearly flat: rounding teaches nothing that is not so.
    logits = Dense(jnp.einsum("btd,dv->btv", live.hidden, live.head)).log_probs(jnp.float32(1.0))
    slope = jax.grad(lambda x: ForwardKL()(signal, x, jnp.float32(1.0)).sum())(logits)
    assert np.abs(slope).max() < 2e-3


def test_draws_are_the_teachers_and_do_not_depend_on_what_is_captured_beside_them(text, tmp_path):
    form = Form(kind="sampled", count=6, dtype="float32", vocab=272, length=16)
    capture = asked(text, form)
    capture.run(Store(tmp_path / "drawn"), quiet=True)
    found = on_device(next(StoredBatches(Rows(Store(tmp_path / "drawn")), 4)))
    live = LiveTeacher(capture.weights).signal(found)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4))
    assert_close(found.targets.ids, jnp.sort(form.coarsen(live, found, keys).ids))
    assert_close(found.targets.log_probs[..., 0], -live.belief(found.labels).entropy)
    assert capture.verify(Store(tmp_path / "drawn")) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_most_probable_tokens_are_kept_beside_draws_from_the_rest(text, tmp_path, dtype):
    form = Form(kind="sampled", count=6, known=4, dtype=dtype, vocab=272, length=16)
    capture = asked(text, form)
    capture.run(Store(tmp_path / "both"), quiet=True)
    found = on_device(next(StoredBatches(Rows(Store(tmp_path / "both")), 4)))
    live = LiveTeacher(capture.weights).signal(found)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4))
    said, drawn = found.targets, form.coarsen(live, found, keys)
    assert_close(said.ids[..., :4], drawn.ids[..., :4])
    assert_close(said.ids[..., 4:], jnp.sort(drawn.ids[..., 4:]))
    np.testing.assert_allclose(said.weights, drawn.weights, atol=1e-6 if dtype == "float32" else 1e-3)
    np.testing.assert_allclose(said.weights.sum(-1), 1.0, rtol=1e-5)
    # In expectation its log-probabilities make minus the entropy: the known as they are, each draw's mean.
    mean = (said.weights * said.log_probs).sum(-1)
    np.testing.assert_allclose(mean, -live.belief(found.labels).entropy, rtol=1e-5 if dtype == "float32" else 2e-3)
    assert capture.verify(Store(tmp_path / "both")) < (1e-5 if dtype == "float32" else 2e-3)


class Killed(Exception):
    """As if by kill -9."""


@pytest.mark.parametrize("moment", range(14))
def test_a_capture_that_is_killed_goes_on_to_the_same_rows(text, whole, tmp_path, monkeypatch, moment):
    """Killed before the nth of whatever reaches the disk; then the same command again."""
    folder, seen = tmp_path / "cut", [0]

    def die(function):
        def dying(*arguments):
            seen[0] += 1
            if seen[0] > moment:
                raise Killed
            return function(*arguments)

        return dying

    with monkeypatch.context() as patch:
        patch.setattr(stored.os, "replace", die(stored.os.replace))
        patch.setattr(stored, "sync", die(stored.sync))
        with pytest.raises(Killed):
            asked(text).run(Store(folder), quiet=True)
    if (folder / stored.MANIFEST).exists():
        assert Store(folder).missing() > 0
    asked(text).run(Store(folder), quiet=True)
    assert_same(read(folder), read(whole))
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_an_unfinished_store_says_what_it_lacks(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / "p000-00001.json").unlink()
    with pytest.raises(ValueError, match="lacks 2 of its 6 batches; the same `capture` command goes on"):
        Rows(Store(tmp_path / "cut"))


def test_any_byte_of_a_shard_that_was_changed_is_found(whole, tmp_path):
    raw = (whole / "p000-00001.array_record").read_bytes()
    for place in (0, 9, len(raw) // 2, len(raw) - 1):
        folder = tmp_path / str(place)
        shutil.copytree(whole, folder)
        (folder / "p000-00001.array_record").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(ValueError, match=r"p000-00001.array_record is damaged: delete it and its json"):
            Rows(Store(folder)).check()
        with pytest.raises(ValueError, match="is damaged"):
            read(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard, note: shard.write_bytes(shard.read_bytes()[:-1]), "bytes, .* were written"),
        (lambda shard, note: shard.write_bytes(b""), "0 bytes, .* were written"),
        (lambda shard, note: shard.unlink(), "No such file"),
        (lambda shard, note: note.write_text(note.read_text().replace("7", "8")), "its digest does not match"),
        (lambda shard, note: note.write_text(""), "Expecting value"),
        (lambda shard, note: note.write_text("[]"), "its digest does not match"),
    ],
)
def test_a_shard_that_is_not_what_was_written_is_named_and_captured_again(text, whole, tmp_path, damage, message):
    folder = tmp_path / "bad"
    shutil.copytree(whole, folder)
    shard, note = folder / "p000-00001.array_record", folder / "p000-00001.json"
    damage(shard, note)
    for act in (lambda: Rows(Store(folder)), lambda: asked(text).run(Store(folder), quiet=True)):
        with pytest.raises(ValueError, match=f"p000-00001.array_record is damaged: delete it and its json.*{message}"):
            act()
    for path in (shard, note):
        path.unlink(missing_ok=True)
    asked(text).run(Store(folder), quiet=True)
    assert_same(read(folder), read(whole))


def test_processes_may_begin_at_the_same_time(text, whole, tmp_path):
    folder = tmp_path / "shared"
    captures = [asked(text) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda p: captures[p].run(Store(folder), p, 4, quiet=True), range(4)))
    assert Store(folder).missing() == 0 and Store(folder).about == asked(text).about(4)


@pytest.mark.parametrize(("here", "there", "kept"), [((0, 1, 2), 2, [0, 1]), ((), 3, []), ((0, 2), 3, [0])])
def test_processes_that_ask_together_ask_each_other_once_which_shards_all_have(whole, monkeypatch, here, there, kept):
    asked, one = [], Store(whole).shards(0)[0]
    monkeypatch.setattr("distill.capture.gather", lambda own: asked.append(own) or [own, there])
    assert [*_shared(dict.fromkeys(here, one))] == kept and len(asked) == 1


def test_a_part_is_captured_by_one_process_at_a_time(text, tmp_path):
    capture = asked(text)
    with Store(tmp_path / "one").writing(capture.about(2), 1):
        with pytest.raises(ValueError, match="p001.lock is held by another process"):
            capture.run(Store(tmp_path / "one"), 1, 2, quiet=True)
        capture.run(Store(tmp_path / "one"), 0, 2, quiet=True)


@pytest.mark.parametrize(
    ("process", "processes", "message"),
    [
        (0, 3, "4 rows cannot be shared by 3 processes; capture with a number that divides 4"),
        (0, 0, "processes is 0; a store needs at least 1"),
        (2, 2, "process is 2 of 2; it must be 0 to 1"),
        (-1, 2, "process is -1 of 2"),
    ],
)
def test_what_cannot_be_captured_is_refused_before_anything_is_written(text, tmp_path, process, processes, message):
    with pytest.raises(ValueError, match=message):
        asked(text).run(Store(tmp_path / "none"), process, processes, quiet=True)
    assert not (tmp_path / "none").exists()


def test_a_reader_keeps_few_shards_open(text, tmp_path, whole, monkeypatch):
    asked(text, shard=1).run(Store(tmp_path / "many"), quiet=True)
    monkeypatch.setattr(rows, "OPEN", 2)
    many = Rows(Store(tmp_path / "many"))
    assert_same([many[i] for i in range(len(many))], read(whole))
    assert len(many._readers) == 2


@dataclass(frozen=True)
class Blot:
    """A change of batches: the first label of a row becomes a 7."""

    def __call__(self, batch):
        labels = batch.labels.copy()
        labels[:, 0] = 7
        return replace(batch, labels=labels)


def test_labels_are_kept_as_they_were_changed(text, tmp_path):
    capture = asked(text)
    capture = replace(capture, stage=replace(capture.stage, change=Blot()))
    capture.run(Store(tmp_path / "changed"), quiet=True)
    batch = on_device(next(StoredBatches(Rows(Store(tmp_path / "changed")), 4)))
    assert (batch.labels[:, 0] == 7).all()
    live = LiveTeacher(capture.weights).signal(batch).belief(batch.labels)
    counts = np.asarray(batch.mask)
    assert_close(np.asarray(batch.targets.judged.gold)[counts], np.asarray(live.gold)[counts])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("entropy", np.nan, "the teacher's entropy is not finite"),
        ("domains", 70000, "domains from 0 to 70000; a store takes 0 to 65535"),
        ("labels", 272, "labels from 0 to 272; a store takes 0 to 271"),
        ("ids", -1, "ids from -1 to 0; a store takes 0 to 271"),
    ],
)
def test_what_a_row_cannot_hold_is_refused(name, value, message):
    row = {n: np.zeros(shape, np.float32 if d == "float32" else np.int64) for n, (d, shape) in FORM.fields.items()}
    row[name] = row[name].copy()
    row[name].flat[0] = value
    with pytest.raises(ValueError, match=message):
        FORM.pack(row)


@pytest.mark.parametrize("captured", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_some_processes_captured_any_number_reads(text, tmp_path, captured):
    folder = tmp_path / "shared"
    for process in reversed(range(captured)):
        asked(text).run(Store(folder), process, captured, quiet=True)
    alone = [batch.tokens for batch in StoredBatches(Rows(Store(folder)), 4)]
    assert len(alone) == 6
    made = asked(text)
    live = stage_loader(made.experiment, made.stage).batches(made.experiment.corpus)
    for tokens in alone:  # whoever captured, the rows are those of one process
        np.testing.assert_array_equal(tokens, next(live).tokens)
    for processes in (2, 4):
        parts = [
            [
                batch.tokens
                for batch in StoredBatches(Rows(Store(folder)), 4, range(4)[p * 4 // processes :][: 4 // processes])
            ]
            for p in range(processes)
        ]
        for number, want in enumerate(alone):
            np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), want)
    assert asked(text).verify(Store(folder)) < 1e-5


def test_rows_are_read_in_batches_of_any_size_and_a_place_is_kept(whole):
    known = Rows(Store(whole))
    large = list(StoredBatches(known, 8))
    assert len(large) == 3
    again = StoredBatches(known, 8)
    next(again)
    later = StoredBatches(known, 8)
    later.set_state(json.loads(json.dumps(again.get_state())))
    np.testing.assert_array_equal(next(later).tokens, large[1].tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "teacher is"),
        ({"form": replace(FORM, count=6)}, "form is"),
        ({"shard": 3}, "shard is 2, wanted 3"),
    ],
)
def test_another_capture_is_refused_in_the_same_folder(text, whole, change, message):
    with pytest.raises(ValueError, match=f"the store is another's: {message}"):
        asked(text, **change).run(Store(whole), quiet=True)


@pytest.mark.parametrize("name", ["tokenizer", "data", "order"])
def test_a_store_of_another_tokenizer_or_of_other_text_is_refused_by_name(text, whole, tmp_path, name):
    shutil.copytree(whole, tmp_path / "other")
    relabel(tmp_path / "other", **{name: "another"})
    for use in (asked(text).run, asked(text).verify):
        with pytest.raises(ValueError, match=f"the store is another's: {name} is 'another', wanted '"):
            use(Store(tmp_path / "other"))


@pytest.mark.parametrize("name", ["tokenizer", "data"])
def test_a_run_refuses_a_store_of_another_tokenizer_or_text_by_name(text, trained, tmp_path, name):
    shutil.copytree(trained / "store", tmp_path / "other")
    relabel(tmp_path / "other", **{name: "another"})
    with pytest.raises(ValueError, match=f"the store is another's: {name} is 'another', wanted '"):
        run_experiment(two_stages(text, str(tmp_path / "other")), tmp_path / "run", quiet=True)


def test_a_stage_whose_questions_share_rows_reads_no_store_of_a_row_each(text, trained, tmp_path):
    one = two_stages(text, str(trained / "store"))
    one = replace(one, stages=(one.stages[0], replace(one.stages[1], packed=True)))
    with Metrics(tmp_path) as metrics:
        room = Room(one, Run(trained / "live"), metrics, Ceiling(1.0), threading.Event(), quiet=True)
        with pytest.raises(ValueError, match="the store is another's: packed is False, wanted True"):
            stage_batches(room, one.stages[1])


def test_a_capture_does_not_go_on_in_another_dtype(text, whole):
    other = asked(text, execution=Execution(dtype="bfloat16"))
    with pytest.raises(ValueError, match="computed is 'float32', wanted 'bfloat16'"):
        other.run(Store(whole), quiet=True)


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)])
def test_a_shard_that_is_gone_is_captured_again_and_no_other(text, whole, tmp_path, gone):
    shutil.copytree(whole, tmp_path / "store")
    for number in gone:
        for path in (tmp_path / "store").glob(f"p000-{number:05d}.*"):
            path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("p000*")}
    with pytest.raises(ValueError, match=f"lacks {2 * len(gone)} of its 6 batches"):
        Rows(Store(tmp_path / "store"))
    asked(text).run(Store(tmp_path / "store"), quiet=True)
    assert_same(read(tmp_path / "store"), read(whole))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_folder_that_is_no_store_is_not_written_into(text, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and no store"):
        asked(text).run(Store(tmp_path), quiet=True)


def test_a_store_of_another_schema_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "old")
    relabel(tmp_path / "old", schema=1)
    with pytest.raises(ValueError, match="schema 1, this version reads 3"):
        _ = Store(tmp_path / "old").about


@pytest.mark.parametrize("raw", ["", "{}", "[]", '{"schema": 9}', '{"schema": 1, "form": {}}', "\x00\x01"])
def test_a_manifest_that_is_none_is_refused(tmp_path, raw):
    (tmp_path / stored.MANIFEST).write_text(raw)
    with pytest.raises(ValueError, match="is not a teacher-target store"):
        _ = Store(tmp_path).about


def test_verify_finds_a_store_of_other_words(text, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "other")
    relabel(tmp_path / "other", teacher=asked(text, seed=9).about().teacher)
    with pytest.raises(ValueError, match="from what the teacher says"):
        asked(text, seed=9).verify(Store(tmp_path / "other"))
    assert asked(text).verify(Store(whole)) < 1e-5


@pytest.mark.parametrize("name", ["ids", "log_probs", "rest", "gold", "square", "entropy", "top"])
def test_verify_looks_at_all_that_is_kept(text, whole, name):
    capture = asked(text)
    batch = on_device(next(StoredBatches(Rows(Store(whole)), 4)))
    live = LiveTeacher(capture.weights).signal(batch)
    assert FORM.distance(live, batch) < 1e-5
    notes = name in (*targets.NOTES, "top")
    holder = batch.targets.judged if notes else batch.targets
    # Ids of the least probable of the top go to one that is hardly ever so: by itself that is a fine log-probability.
    # Another first choice than the teacher's is no probability at all.
    off = vars(holder)[name].at[..., -1].set(200) if name in ("ids", "top") else vars(holder)[name] - 0.3
    wrong = replace(holder, **{name: off})
    wrong = replace(batch.targets, judged=wrong) if notes else wrong
    assert FORM.distance(live, replace(batch, targets=wrong)) > 1e-3


def test_verify_finds_draws_of_another_seed(text, tmp_path):
    form = Form(kind="sampled", count=6, dtype="float32", vocab=272, length=16)
    asked(text, form, seed=3).run(Store(tmp_path / "drawn"), quiet=True)
    other = replace(asked(text, form, seed=3), experiment=replace(asked(text).experiment, seed=5))
    relabel(tmp_path / "drawn", order=other.about().order)
    with pytest.raises(ValueError, match="of the draws are not those of this seed; at most 1%"):
        other.verify(Store(tmp_path / "drawn"))


def relabel(folder, **changes):
    manifest = json.loads((folder / stored.MANIFEST).read_text())
    del manifest["digest"]
    stored._place(folder / stored.MANIFEST, manifest | changes)


def test_bytes_are_those_of_the_fields():
    form = Form(count=12, vocab=272, length=128)
    assert form.target_bytes == 12 * (2 + 2) + 2 + 3 * 2 + 2
    assert replace(form, kind="sampled").target_bytes == 12 * 2 + 3 * 2 + 2
    assert replace(form, kind="sampled", known=8).target_bytes == 8 * (2 + 2) + 2 + 12 * 2 + 3 * 2 + 2
    assert replace(form, vocab=202048).id_bytes == 3


@pytest.mark.parametrize("changes", [{"known": 3}, {"kind": "sampled", "known": 272}, {"kind": "sampled", "known": -1}])
def test_a_form_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match=r"known=-?\d+; it must be 0, or beside draws"):
        Form(vocab=272, length=16, **changes)


# Through a whole run.


def two_stages(text, folder=None):
    """A teacher, and a student that hears it live or from a store."""
    teach = stage(learner("teacher", model=replace(WIDE, vocab=272)), name="teach", steps=2, rows=4)
    plain = Distill(gate=NoGate(), lens=Top(k=5) if folder is None else Distill().lens, chunk=5)
    distil = stage(
        learner(model=BYTES, loss=plain), name="distil", teacher="teacher", steps=4, rows=4, stream=1, store=folder,
        log_every=1, save_every=2,
    )  # fmt: skip
    return experiment(stages=(teach, distil), corpus=Folder(str(text)))


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A finished run that heard its teacher live, and a store of what the teacher said."""
    base = tmp_path_factory.mktemp("runs")
    one = two_stages(text)
    run_experiment(one, base / "live", quiet=True)
    weights = load_weights(base / "live", "teach", "teacher")
    Capture(one, one.stages[1], name_of(weights), weights, FORM).run(Store(base / "store"), quiet=True)
    return base


@pytest.fixture(scope="module")
def learned(text, trained):
    """And a run that learned from the store."""
    run_experiment(two_stages(text, str(trained / "store")), trained / "from_store", quiet=True)
    return trained


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["student/soft"] for line in lines if line["stage"] == "distil" and line["kind"] == "train"]


def test_a_run_from_the_store_is_the_run_with_the_teacher_and_goes_on_where_it_was_stopped(text, learned, monkeypatch):
    from distill.loop import Interrupted

    one, trained = two_stages(text, str(learned / "store")), learned
    np.testing.assert_allclose(curve(trained / "from_store"), curve(trained / "live"), rtol=1e-4)
    interrupt(monkeypatch, "distil", 3)
    with pytest.raises(Interrupted):
        run_experiment(one, trained / "stopped", quiet=True)
    monkeypatch.undo()
    run_experiment(one, trained / "stopped", quiet=True)
    one, two = ((trained / name / "metrics.jsonl").read_bytes() for name in ("from_store", "stopped"))
    assert one == two


def test_a_run_from_the_store_never_reads_its_teacher(text, learned, tmp_path, monkeypatch):
    trained = learned
    one = two_stages(text, str(trained / "store"))
    shutil.copytree(trained / "from_store", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "distil")
    (tmp_path / "again" / "results.json").unlink()

    def refuse(*_):
        raise AssertionError("the teacher was read")

    monkeypatch.setattr(Room, "teacher_weights", refuse)
    run_experiment(one, tmp_path / "again", quiet=True)
    assert curve(tmp_path / "again") == curve(trained / "from_store")


def test_a_teacher_is_known_by_its_checkpoint_alone(trained):
    place = (trained / "live", "teach", "teacher")
    assert identity(*place) == identity(*place, 2) == name_of(load_weights(*place))
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint in .* \(found steps \[.*2\]\)"):
        identity(*place, 99)
    checkpoints = Checkpoints(trained / "live" / "checkpoints" / "teach", writable=False)
    with checkpoints, pytest.raises(ValueError, match="not 'nobody.weights'; name a learner that it holds"):
        checkpoints.fingerprints("nobody.weights")


def test_a_run_refuses_a_store_of_changed_labels(text, trained, tmp_path):
    one = two_stages(text, str(trained / "store"))
    changed = replace(one, stages=(one.stages[0], replace(one.stages[1], change=Blot())))
    with pytest.raises(ValueError, match=r"the store is another's: change is 'None', wanted 'Blot\(\)'"):
        run_experiment(changed, tmp_path / "changed", quiet=True)


def test_a_run_refuses_the_store_of_another_teacher(text, trained, tmp_path):
    other = replace(two_stages(text, str(trained / "store")), seed=7)
    with pytest.raises(ValueError, match="the store is another's: teacher is"):
        run_experiment(other, tmp_path / "other", quiet=True)


def test_a_run_refuses_the_store_of_other_documents(text, trained, tmp_path):
    one = two_stages(text, str(trained / "store"))
    few = replace(one, stages=(one.stages[0], replace(one.stages[1], documents=5)))
    with pytest.raises(ValueError, match="documents is None, wanted 5"):
        run_experiment(few, tmp_path / "few", quiet=True)


def test_a_run_refuses_a_store_that_is_too_short(text, trained, tmp_path):
    one = two_stages(text, str(trained / "store"))
    longer = replace(one, stages=(one.stages[0], replace(one.stages[1], steps=5)))
    with pytest.raises(ValueError, match="takes 20 rows of 16 tokens; .* has 16"):
        run_experiment(longer, tmp_path / "longer", quiet=True)


def test_a_store_without_a_teachers_name_is_refused(text):
    with pytest.raises(ValueError, match="needs a teacher: name whose words it holds"):
        experiment(stages=(stage(learner(), store="somewhere"),))


def test_the_commands_capture_what_the_library_does_and_verify_it(text, trained, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(f"from tests.distill.test_store import two_stages\nEXPERIMENT = two_stages({str(text)!r})\n")
    store.capture(file, trained / "live", tmp_path / "made", count=5, dtype="float32")
    assert "missing      0 of 4 batches" in capsys.readouterr().out
    for one, other in zip(read(tmp_path / "made"), read(trained / "store"), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    store.verify(file, trained / "live", tmp_path / "made")
    assert "every shard is whole; the largest difference of a probability is" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"order is 'all documents, seed 1.*, wanted 'all documents, seed 7001"):
        store.verify(file, trained / "live", tmp_path / "made", options=("--seed", "7"))
    with pytest.raises(ValueError, match=r"has no stage 'nothing' with a teacher; there are \['distil'\]"):
        store.capture(file, trained / "live", tmp_path / "none", stage="nothing")


def test_a_store_holds_the_words_of_one_teacher(text, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nfrom tests.distill.test_store import two_stages\n"
        f"one = two_stages({str(text)!r})\nother = replace(one.stages[0].learners[0], name='other')\n"
        "teach = replace(one.stages[0], learners=(*one.stages[0].learners, other))\n"
        "EXPERIMENT = replace(one, stages=(teach, replace(one.stages[1], ensemble=('other',))))\n"
    )
    with pytest.raises(ValueError, match="'other'\\), and a store holds the words of one teacher"):
        store.capture(file, tmp_path / "run", tmp_path / "none", stage="distil")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_as": Rounded()}, "leave teacher_as out"),
        ({"rollout": OnPolicy()}, "are completed anew by OnPolicy"),
        ({"teacher": "student", "learners": (learner(model=BYTES), learner("two", model=BYTES))}, "while it learns"),
    ],
)
def test_words_that_no_stage_could_read_are_not_captured(changes, message):
    with pytest.raises(ValueError, match=message):
        store._check_one(stage(*changes.pop("learners", ()), **({"name": "distil", "teacher": "teacher"} | changes)))


def test_a_file_without_an_experiment_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ValueError, match="defines no EXPERIMENT"):
        store.capture(tmp_path / "mine.py", tmp_path, tmp_path / "none")


def test_the_commands_inspect_and_refuse(whole, text, capsys):
    store.inspect(whole)
    printed = capsys.readouterr().out
    assert "0 of 6 batches" in printed and "a token before compression" in printed
    with pytest.raises(ValueError, match="is not a teacher-target store"):
        store.inspect(text)
