from dataclasses import replace

import numpy as np
import pytest

from distill.data.loader import Loader
from distill.data.manifest import Count
from distill.data.source import Source
from distill.resolved import to_json
from distill.tasks.item import Pool
from distill.tasks.lines import File
from distill.tasks.small import Small
from distill.tasks.source import Pooled, Questions, erred
from distill.tasks.system import SYSTEMS
from models.tokenizer import Bytes

POOL = Small(levels=(0, 1), train=100, held_out=20)()
TRAIN, HELD = POOL.select(split="train"), POOL.select(split="held_out")


def read(source, split):
    documents = source.documents(split)
    return [documents[i] for i in range(len(documents))]


def test_questions_are_a_source_and_pools_come_from_many_places():
    assert isinstance(Questions(POOL), Source)
    assert all(isinstance(one, Pooled) for one in (POOL, Small(), File()))


def test_a_document_is_a_prompt_its_capability_and_its_answer():
    for split, part in (("train", TRAIN), ("held_out", HELD)):
        expected = [{"text": i.prompt.encode(), "domain": i.capability, "answer": i.answer.encode()} for i in part]
        assert read(Questions(POOL), split) == expected


def test_the_loop_reads_answers_as_what_is_to_be_learned():
    source = Questions(POOL)
    loader = Loader(rows=8, length=24, domains=source.manifest().domains)
    batch, tokenizer = next(loader.batches(source)), Bytes()
    answers = {one.prompt: one for one in TRAIN}
    for tokens, labels, mask, domains in zip(batch.tokens, batch.labels, batch.mask, batch.domains, strict=True):
        first = int(np.argmax(mask))
        one = answers[tokenizer.raw(tokens[1 : first + 1]).decode()]
        assert labels[mask].tolist() == [*one.answer.encode(), tokenizer.end]
        assert loader.domains[domains[first]] == one.capability
    assert loader.held_out_batches(source, 2)[0].mask.any()


def test_the_manifest_counts_by_capability():
    manifest = Questions(POOL).manifest()
    assert (
        manifest.domains == ("arithmetic", "ordering", "strings") and manifest.name == "questions distill.tasks.small"
    )
    of = TRAIN.select(capabilities=("strings",))
    assert manifest.splits["train"]["strings"] == Count(200, sum(len(one.prompt + one.answer) for one in of))
    assert {name: count.documents for name, count in manifest.splits["held_out"].items()} == dict.fromkeys(
        manifest.domains, 40
    )
    assert manifest.version == "1" and manifest.licences == {"distill.tasks.small": "Apache-2.0"}


def test_the_hash_follows_everything_that_is_read():
    sources = [Questions(POOL), Questions(POOL, noisy=0.2), Questions(POOL, noisy=0.2, seed=1)]
    sources += [Questions(POOL, systems=SYSTEMS), Questions(POOL, keep=(TRAIN[0].id, TRAIN[250].id, TRAIN[500].id))]
    hashes = [source.manifest().hash for source in sources]
    assert len(set(hashes)) == 5 and hashes[1] == Questions(POOL, noisy=0.2).manifest().hash


def test_a_run_can_write_it_down():
    found = to_json(Questions(Small(), systems=SYSTEMS, keep=("a",)))
    assert found["pool"]["class"] == "Small" and found["systems"][1]["change"] == "distill.tasks.system:backwards"


# Systems


def test_every_item_is_asked_under_a_system_of_its_own():
    source = Questions(POOL, systems=SYSTEMS)
    names = {one.system for one in source.items("train")}
    assert names == {system.name for system in SYSTEMS} == {one.system for one in source.items("held_out")}
    prompts = [one.prompt for one in source.items("held_out")]
    assert prompts == [one.prompt for one in HELD]
    assert read(source, "train")[0]["text"] == source.items("train")[0].text.encode()


def test_a_system_can_be_a_sentence():
    texts = [one["text"] for one in read(Questions(POOL, systems=SYSTEMS, sentence=True), "train")]
    assert any(text.startswith(b"Write the answer twice") for text in texts)


# Errors


def test_errors_are_in_answers_to_learn_from_alone():
    source = Questions(POOL, noisy=0.4)
    assert read(source, "held_out") == read(Questions(POOL), "held_out")
    pairs = list(zip(source.items("train"), TRAIN, strict=True))
    assert all(replace(one, answer=other.answer) == other for one, other in pairs)
    wrong = np.mean([one.answer != other.answer for one, other in pairs])
    assert source.changed == wrong and f"{wrong:.4f} of the answers" in source.manifest().basis
    # 0.4 get an error; some of those change nothing, such as two equal neighbours.
    assert 0.28 < wrong < 0.4


def test_errors_follow_from_the_seed():
    one, two = (Questions(POOL, noisy=0.4, seed=seed).items("train") for seed in (0, 1))
    assert one == Questions(POOL, noisy=0.4).items("train") != two


def test_without_noise_every_answer_is_right():
    assert Questions(POOL).changed == 0.0 and Questions(POOL).items("train") == TRAIN.items


def test_an_error_is_two_neighbours_swapped_or_one_character_replaced():
    random = np.random.default_rng(0)
    found = {erred("abc", "xyz", random) for _ in range(500)}
    swapped = {"bac", "acb"}
    assert found == swapped | {"abc"[:i] + letter + "abc"[i + 1 :] for i in range(3) for letter in "xyz"}


def test_half_of_the_errors_are_swaps():
    random = np.random.default_rng(0)
    share = np.mean([sorted(erred("abcd", "x", random)) == list("abcd") for _ in range(2000)])
    assert 0.45 < share < 0.55


def test_an_answer_of_one_character_is_replaced():
    assert {erred("a", "xy", np.random.default_rng(n)) for n in range(20)} == {"x", "y"}


def test_an_error_looks_like_an_answer_of_its_task():
    source = Questions(POOL, noisy=0.9)
    assert all(one.answer.isdigit() for one in source.items("train") if one.capability != "strings")
    assert all(one.answer.isalpha() for one in source.items("train") if one.capability == "strings")


# Keep


@pytest.mark.parametrize("as_ids", [True, False])
def test_a_filter_keeps_what_it_keeps_of_what_is_learned(as_ids):
    mask = tuple(i % 3 == 0 for i in range(len(TRAIN)))
    kept = [one for one, wanted in zip(TRAIN, mask, strict=True) if wanted]
    source = Questions(POOL, keep=tuple(one.id for one in kept) if as_ids else mask)
    assert list(source.items("train")) == kept and len(source.items("held_out")) == len(HELD)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Questions(POOL, noisy=1.0), r"noisy is 1.0; it must be a share of the answers, at least 0 and less"),
        (lambda: Questions(POOL, keep=()), r"keep is empty, and nothing is left to learn from; set it to None"),
        (lambda: Questions(POOL, keep=("a",)).manifest(), r"1 id\(s\) are not in the pool, 'a' first"),
        (lambda: Questions(POOL, keep=(True,)).documents("train"), r"the mask has 1 values, the pool 600 items"),
        (lambda: Questions(HELD).manifest(), r"the train split of the pool of 120 has no questions; give it more"),
        (lambda: Questions(TRAIN).documents("held_out"), r"the held_out split of the pool of 600 has no questions"),
        (
            lambda: Questions(Pool((*HELD, *TRAIN.select(tasks=("sort", "add"))))).documents("train"),
            r"capability 'strings' is held out, and there is nothing of it to learn from",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
