"""A router on disk: router.json (vocabulary, labels, rules, facts) and router.safetensors (numbers). Nothing executable.

Writes into the folder it is given; that the folder becomes whole and immutable is the registry's work.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from experts.tree import OUT_OF_DOMAIN, Tree
from routing.classifier import Classifier
from routing.features import DENSE, Features
from routing.parts import INSIDE, Parts, Rules
from routing.spelling import Spelling
from settings import TreeSettings

FORMAT = "branchwise-router"
FORMAT_VERSION = 3  # 2, whose root has branches for labels (one that grew from it keeps them), is read as well, and 1, without "spelling"
JSON_NAME = "router.json"
TENSORS_NAME = "router.safetensors"


class DamagedRouter(ValueError):
    """A router folder that can't be used. The message says which file, what is wrong, and what to do."""


def save_parts(router: Parts, folder: Path) -> None:
    """Write both files into an existing folder."""
    tensors = {"idf": router.features.idf, "familiar": router.features.familiar.astype(np.uint8)}
    described: dict[str, Any] = {}
    for name, part in _classifiers(router).items():
        tensors |= {f"{name}.weights": part.weights, f"{name}.bias": part.bias}
        described[name] = {"labels": list(part.labels), "temperature": part.temperature}
    packed = format_tensors({name: np.ascontiguousarray(values) for name, values in tensors.items()})
    (folder / TENSORS_NAME).write_bytes(packed)
    document = {
        "format": FORMAT, "version": FORMAT_VERSION, "tensors_sha256": hashlib.sha256(packed).hexdigest(),
        "tree": _tree_facts(router.tree), "classifiers": described, "dense": list(DENSE), "rules": asdict(router.rules), "facts": dict(router.facts),
        "words": list(router.features.words), "letter_groups": list(router.features.grams), "forms": list(router.features.forms),
        "spelling": {"known": sorted(router.features.spelling.known), "common": list(router.features.spelling.common)},
    }
    (folder / JSON_NAME).write_text(json.dumps(document, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8")


def load_parts(folder: Path, *, tree: Tree) -> Parts:
    """The parts that save_parts wrote, checked throughout. Raises DamagedRouter."""
    document = _document(folder / JSON_NAME)
    if document["tree"] != _tree_facts(tree):
        raise DamagedRouter(f"{folder / JSON_NAME} was fitted for the tree {document['tree']}, but the settings say {_tree_facts(tree)}; "
                            f"fit a router for this tree: python -m routing fit")
    tensors = _tensors(folder / TENSORS_NAME, digest=str(document["tensors_sha256"]))
    try:
        return _assemble(document, tensors, tree=tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedRouter(f"{folder} holds no whole router: {type(error).__name__}: {error}; fit it again: python -m routing fit") from error


def fits(folder: Path, tree: Tree) -> bool:
    """Whether the router in folder can be read and was fitted for this tree."""
    try:
        return bool(_document(folder / JSON_NAME)["tree"] == _tree_facts(tree))
    except DamagedRouter:
        return False


def stored_tree(folder: Path) -> Tree:
    """The tree that the router in folder was fitted for. Raises DamagedRouter."""
    found = _document(folder / JSON_NAME)["tree"]
    try:
        return Tree.from_settings(TreeSettings(root=found["root"], branches=found["branches"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRouter(f"{folder / JSON_NAME} names no tree: {error}; fit the router again: python -m routing fit") from error


def _assemble(document: Mapping[str, Any], tensors: Mapping[str, Any], *, tree: Tree) -> Parts:
    words = {word: place for place, word in enumerate(document["words"])}
    grams = {gram: place for place, gram in enumerate(document["letter_groups"])}
    if list(document["dense"]) != list(DENSE):
        raise ValueError(f"dense facts {document['dense']}, this version reads {list(DENSE)}")
    forms = {form: place for place, form in enumerate(document["forms"])}
    features = Features(words, grams, forms, tensors["idf"], tensors["familiar"].astype(bool), _spelling(document["spelling"]))
    size = len(words) + len(grams) + len(forms)
    listed = len(document["words"]) + len(document["letter_groups"]) + len(document["forms"])
    if listed != size or features.idf.shape != (size,) or features.familiar.shape != (len(words) + len(grams),):
        raise ValueError(f"vocabulary of {size} different terms out of {listed}, but idf of shape {features.idf.shape}")
    if features.idf.dtype != np.float64 or not np.isfinite(features.idf).all():
        raise ValueError(f"idf of {features.idf.dtype} with a number that isn't finite, or not of float64")
    parts = {name: _classifier(name, facts, tensors, width=features.width) for name, facts in document["classifiers"].items()}
    expected = {"gate": {INSIDE, OUT_OF_DOMAIN}, "root": _root_labels(parts.get("root"), tree=tree), "flat": {*tree.domains},
                **{f"branch.{name}": set(tree.nodes[name].children) for name in tree.branches if len(tree.nodes[name].children) > 1}}
    found = {name: set(part.labels) for name, part in parts.items()}
    if found != expected:
        raise ValueError(f"classifiers {found}, the tree needs {expected}")
    children = {name.removeprefix("branch."): part for name, part in parts.items() if name.startswith("branch.")}
    return Parts(tree, features, parts["gate"], parts["root"], children, parts["flat"], _rules(document["rules"]), document["facts"])


def _root_labels(root: Classifier | None, *, tree: Tree) -> set[str]:
    """The labels that a root may have, given its own: the branches, or domains of every branch (a grown router's lacks the newest)."""
    domains = set(root.labels) & set(tree.domains) if root is not None else set()
    return domains if {tree.nodes[domain].parent for domain in domains} == set(tree.branches) else {*tree.branches}


def _spelling(facts: Mapping[str, Any]) -> Spelling:
    """The spelling, whose common words have to be known, each once: one that isn't would be read as another."""
    known, common = frozenset(facts["known"]), tuple(facts["common"])
    if not all(isinstance(word, str) for word in (*known, *common)):
        raise ValueError("spelling with something that is no word")
    if not known.issuperset(common) or len(set(common)) != len(common):
        raise ValueError(f"spelling with {len(common)} common words, {len(set(common) & known)} different ones of them known")
    return Spelling(known, common)


def _rules(facts: Mapping[str, Any]) -> Rules:
    """The rules, each of the type of its default and finite: json reads NaN and any text without a word."""
    rules = Rules(**facts)
    for each in fields(rules):
        value = getattr(rules, each.name)
        kind = int if isinstance(each.default, int) else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            raise ValueError(f"rule {each.name} is {value!r}, expected a number such as {each.default}")
    return rules


def _classifier(name: str, facts: Mapping[str, Any], tensors: Mapping[str, Any], *, width: int) -> Classifier:
    labels = tuple(facts["labels"])
    weights, bias = tensors[f"{name}.weights"], tensors[f"{name}.bias"]
    rows = 1 if len(labels) <= 2 else len(labels)
    if weights.shape != (rows, width) or bias.shape != (rows,) or weights.dtype != np.float64 or bias.dtype != np.float64:
        raise ValueError(f"classifier {name}: weights {weights.shape} and bias {bias.shape}, expected {(rows, width)} and {(rows,)} of float64")
    if not (np.isfinite(weights).all() and np.isfinite(bias).all() and 0 < float(facts["temperature"]) < math.inf):
        raise ValueError(f"classifier {name} has a number that isn't finite, or no positive temperature")
    return Classifier(labels, weights, bias, float(facts["temperature"]))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedRouter(f"no {path.name} in {path.parent}; fit a router: python -m routing fit") from None
    except (OSError, ValueError) as error:
        raise DamagedRouter(f"{path} can't be read as JSON: {error}; fit the router again: python -m routing fit") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DamagedRouter(f"{path} isn't a router of this project (format {document.get('format') if isinstance(document, dict) else None!r}, "
                            f"expected {FORMAT!r}); fit one: python -m routing fit")
    if document.get("version") not in range(1, FORMAT_VERSION + 1):
        raise DamagedRouter(f"{path} is of format version {document.get('version')!r}, this program reads 1 to {FORMAT_VERSION}; fit the router again")
    if document["version"] == 1:
        document["spelling"] = {"known": [], "common": []}
    missing = {"tensors_sha256", "tree", "classifiers", "dense", "rules", "facts", "words", "letter_groups", "forms", "spelling"} - set(document)
    if missing:
        raise DamagedRouter(f"{path} lacks {', '.join(sorted(missing))}; fit the router again: python -m routing fit")
    return document


def _tensors(path: Path, *, digest: str) -> dict[str, Any]:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DamagedRouter(f"{path} can't be read: {error}; fit the router again: python -m routing fit") from None
    found = hashlib.sha256(packed).hexdigest()
    if found != digest:
        raise DamagedRouter(f"{path} is damaged or of another router: sha256 {found[:12]}, router.json says {digest[:12]}; fit the router again")
    try:
        return dict(parse_tensors(packed))
    except SafetensorError as error:
        raise DamagedRouter(f"{path} is no safetensors file: {error}; fit the router again: python -m routing fit") from None


def _classifiers(router: Parts) -> dict[str, Classifier]:
    return {"gate": router.gate, "root": router.root, **{f"branch.{name}": part for name, part in router.children.items()}, "flat": router.flat}


def _tree_facts(tree: Tree) -> dict[str, Any]:
    return {"root": tree.root, "branches": {name: list(tree.nodes[name].children) for name in tree.branches}}
