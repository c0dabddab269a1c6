"""The family tree: which nodes there are, whose weights each starts from, and in which order labels stand.

Pure and free of torch: routing and serving read it too. Does not know which versions exist (registry.py does).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from settings import SettingsError, TreeSettings

NodeKind = Literal["root", "branch", "expert"]
OUT_OF_DOMAIN = "ood"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_RESERVED = {"auto", "none", OUT_OF_DOMAIN, "router"}


@dataclass(frozen=True, slots=True)
class Node:
    """One servable place of the tree. domains: the experts below it (or itself), in label order."""

    name: str
    kind: NodeKind
    parent: str | None
    children: tuple[str, ...]
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Root, branches and experts. Iteration order everywhere: root, branches, then experts, as in config.toml."""

    root: str
    nodes: Mapping[str, Node]

    @classmethod
    def from_settings(cls, tree: TreeSettings) -> Tree:
        """Build and check a tree. Raises SettingsError for an empty tree or branch, a name used twice, a bad name."""
        branches = {name: tuple(domains) for name, domains in tree.branches.items()}
        names = [tree.root, *branches, *(domain for domains in branches.values() for domain in domains)]
        if not branches:
            raise SettingsError("tree.branches is empty; name at least one branch with one domain, as in technical = [\"code\"]")
        for name in names:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise SettingsError(f"tree: {name!r} can't name a node; use a-z, 0-9 and _, a letter first, at most 32, and none of {sorted(_RESERVED)}")
            if names.count(name) > 1:
                raise SettingsError(f"tree: {name!r} stands {names.count(name)} times; every node needs a name of its own")
        for branch, domains in branches.items():
            if not domains:
                raise SettingsError(f"tree.branches.{branch} has no domain; give it one or take the branch out")
        all_domains = tuple(domain for domains in branches.values() for domain in domains)
        nodes = {tree.root: Node(tree.root, "root", None, tuple(branches), all_domains)}
        nodes |= {branch: Node(branch, "branch", tree.root, domains, domains) for branch, domains in branches.items()}
        nodes |= {domain: Node(domain, "expert", branch, (), (domain,)) for branch, domains in branches.items() for domain in domains}
        return cls(tree.root, MappingProxyType(nodes))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of all experts, in label order."""
        return self.nodes[self.root].domains

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of all branches, in order."""
        return self.nodes[self.root].children

    @property
    def trainable(self) -> tuple[str, ...]:
        """Nodes with a model of their own, parents first: the root, branches with two or more children, experts."""
        return tuple(name for name in self.nodes if self.model_of(name) == name)

    def model_of(self, name: str) -> str:
        """The node whose model answers for name: a branch with one child shares that child's model."""
        node = self.node(name)
        return node.children[0] if node.kind == "branch" and len(node.children) == 1 else name

    def start_of(self, name: str) -> str | None:
        """The node from whose weights name starts: the nearest ancestor with a model of its own; None for the root."""
        parent = self.node(name).parent
        while parent is not None and self.model_of(parent) != parent:
            parent = self.node(parent).parent
        return parent

    def answering(self, name: str, available: Collection[str]) -> str | None:
        """The node whose model answers for name, given which nodes have a version: its own model's, else the nearest
        ancestor's; None when there is none up to the root."""
        place: str | None = self.model_of(name)
        while place is not None and place not in available:
            place = self.start_of(place)
        return place

    def path(self, name: str) -> tuple[str, ...]:
        """Names from the root down to name."""
        parent = self.node(name).parent
        return (*self.path(parent), name) if parent is not None else (name,)

    def node(self, name: str) -> Node:
        """The node of that name; raises KeyError that lists the known ones."""
        try:
            return self.nodes[name]
        except KeyError:
            raise KeyError(f"no node named {name!r}; known: {', '.join(self.nodes)}") from None
