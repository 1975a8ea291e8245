import numpy as np
import pytest

from distill.data.loader import Loader
from distill.data.source import Folder
from experiments import weighting_rates
from experiments.dynamic_weighting import BLIND, CONDITIONS, METHODS, Oracle, methods
from experiments.weighting_data import LETTERS, Languages, Noise, cipher
from losses import Gate


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"number {i} " + "the quick brown fox jumps over the lazy dog " * 4)
    return Folder(str(folder))


def test_the_cipher_permutes_what_is_printed_and_leaves_blanks():
    table = np.frombuffer(cipher(), np.uint8)
    assert sorted(table) == list(range(256)) and table[32] == 32 and table[10] == 10
    assert (table[LETTERS] != LETTERS).mean() > 0.9


@pytest.mark.parametrize("mix", ["plain", "apart", "fixed", "random"])
def test_documents_are_the_corpus_with_some_or_parts_of_them_in_cipher(text, mix):
    back = bytes(np.argsort(np.frombuffer(cipher(), np.uint8)).astype(np.uint8))
    documents, plain = Languages(mix=mix, source=text).documents("train"), text.documents("train")
    shares = []
    for i in range(20):
        one, whole = documents[i]["text"], plain[i]["text"]
        same = np.frombuffer(one, np.uint8) == np.frombuffer(whole, np.uint8)
        other = np.frombuffer(one.translate(back), np.uint8) == np.frombuffer(whole, np.uint8)
        assert (same | other).all()
        shares.append((~same).any())
    assert np.mean(shares) == {"plain": 0.0, "apart": 0.5, "fixed": 1.0, "random": 1.0}[mix]
    assert set(Languages(mix=mix, source=text).manifest().domains) >= {documents[0]["domain"]}


@pytest.mark.parametrize("mix", ["fixed", "random"])
def test_where_languages_are_known_it_is_the_same_text_and_every_position_has_its_own(text, mix):
    known, blind = (Languages(mix=name, source=text) for name in (f"{mix}-known", mix))
    names = known.manifest().domains
    one = next(Loader(rows=16, length=32, domains=names).batches(known))
    np.testing.assert_array_equal(one.tokens, next(Loader(rows=16, length=32).batches(blind)).tokens)
    counted = one.mask & (one.labels >= 33) & (one.labels < 127)
    shares = [one.domains[counted].mean(), (one.domains != one.domains[:, :1]).mean()]
    assert names == ("cipher", "plain") and 0.2 < shares[0] < 0.8 and shares[1] > 0.1
    # What is read back by the languages that are said is what was written.
    back = bytes(np.argsort(np.frombuffer(cipher(), np.uint8)).astype(np.uint8))
    for document, plain in ((known.documents("train")[i], text.documents("train")[i]) for i in range(20)):
        parts, start = [], 0
        for language, size in document["pieces"]:
            part = document["text"][start : start + size]
            parts.append(part.translate(back) if language == "cipher" else part)
            start += size
        assert b"".join(parts) == plain["text"]
    assert Oracle()(None, one.place()).tolist() == (one.domains == 1).tolist()


def test_the_sweep_asks_the_oracle_wherever_there_is_one():
    assert {name for name, one in CONDITIONS.items() if one.oracle} >= {f"{name}-known" for name in BLIND}
    assert list(methods("mixed-known")) == ["hard", "evidence", "evidence-domain", "oracle"]
    assert "oracle" in methods("specialist") and "oracle" not in methods("mixed")


def test_the_halves_of_the_held_out_text_share_no_document(text):
    one, two = (Languages(part=part, source=text).documents("held_out") for part in ("choose", "report"))
    assert not {one[i]["text"] for i in range(len(one))} & {two[i]["text"] for i in range(len(two))}


def changed(text, noise):
    source = Languages(mix="apart", source=text)
    loaders = (Loader(rows=16, length=32, domains=source.manifest().domains, change=c) for c in (noise, None))
    one, other = (next(loader.batches(source)) for loader in loaders)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    return one, other, one.labels != other.labels


def test_noise_strikes_its_share_of_the_labels_of_its_domain_the_same_way_every_time(text):
    one, other, struck = changed(text, Noise(domain=1))
    assert 0.1 < struck[other.mask & (other.domains == 1)].mean() < 0.3
    assert not struck[other.domains == 0].any() and not struck[~other.mask].any()
    np.testing.assert_array_equal(one.labels, changed(text, Noise(domain=1))[0].labels)


def test_systematic_errors_are_the_same_for_the_same_letter(text):
    one, other, struck = changed(text, Noise(kind="next"))
    assert struck.any() and all(
        b == (97 if a == 122 else a + 1) for a, b in zip(other.labels[struck], one.labels[struck], strict=True)
    )


def test_methods_are_losses_with_gates_and_every_condition_is_named():
    assert all(isinstance(loss.gate, Gate) for loss in METHODS.values()) and isinstance(Oracle(), Gate)
    assert {"reliable", "specialist", "specialist-noise", "mixed", "live", "warm", "errors", "few"} <= set(CONDITIONS)


def test_what_is_best_is_asked_over_the_conditions_that_all_settings_share():
    def row(trial, name, value):
        return {"trial": trial, "name": name, "cross_entropy": value}

    rows = [
        row("weak-rate0.003", "hard", 2.0), row("live-rate0.003", "hard", 2.2), row("weak-rate0.006", "hard", 1.9),
        row("weak-gate", "kappa30_b1", 1.5), row("live-gate", "kappa30_b1", 1.7), row("live-gate", "teacher", 9.0),
    ]  # fmt: skip
    found = weighting_rates.best(rows)
    assert found["hard"] == [("rate0.006", 1.9), ("rate0.003", 2.0)]  # live was not run at both
    assert found["gate"] == [("kappa30_b1", pytest.approx(1.6))]
