"""The data of one cycle, ready for training: examples, tokenizer and packed shards of every domain, made once and kept.

Under <run>/data: examples/<domain>-<fingerprint>/, shards/<domain>-<fingerprint>/, tokenizer/, trained/, corpus.json. A fingerprint covers all
that decides a folder's content, so a changed file makes new folders of its own domain and nothing else is redone. Does not
train, and does not decide when a cycle begins.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep import curriculum, exam_check, hub, manifest, trained
from data_prep.intake import DamagedExamples, Lessons, fingerprint, load_intake, read_examples, take_in
from data_prep.manifest import last_cycle as last_cycle
from data_prep.manifest import last_levels as last_levels
from data_prep.pack import DamagedShard, Shard, documents, efficiency, verify_shard, write_shard
from data_prep.records import Example, Split
from data_prep.report import DomainReport, Intake, Overlap, Packing, Report
from data_prep.sources import DataError as DataError
from data_prep.sources import DataFile, list_folder
from data_prep.split import LEAST_ROWS, SPLITS
from experts import tokenizer as tokenizers
from experts.durable import move_aside, new_folder, remove_leftovers
from experts.pretrained import base_tokenizer
from experts.tokenizer import Tokenizer
from experts.tree import Tree
from settings import Settings

logger = logging.getLogger(__name__)

FORMAT = 1  # goes up when the same examples give other shards
FACTS = "facts.json"
TOKENIZER_CHARS = 2_000_000  # of each domain, so that none owns the vocabulary; more changes few merges and takes longer
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Examples and shards of all domains. fingerprint: of everything in it, tokenizer included. folder: <run>/data."""

    tokenizer: Tokenizer
    fingerprint: str
    folder: Path
    report: Report
    folders: Mapping[str, _Folders] = field(repr=False)

    def shard(self, domain: str, split: Split) -> Shard:
        """The packed documents of a domain and split."""
        return Shard.open(self._of(domain).shards, split)

    def examples(self, domain: str, split: Split) -> list[Example]:
        """The examples of a domain and split, in the order of the records; exam rows that training repeats are left out."""
        rows = read_examples(self._of(domain).examples / f"{split}.parquet", domain=domain)
        seen = self._of(domain).seen
        return [row for row in rows if row.key not in seen] if split == "exam" and seen else rows

    @property
    def of_records(self) -> frozenset[str]:
        """Domains that hold records alone, nothing of the curriculum."""
        return frozenset(entry.domain for entry in self.report.domains if entry.intake.cycle is None)

    def _of(self, domain: str) -> _Folders:
        try:
            return self.folders[domain]
        except KeyError:
            raise KeyError(f"no data of a domain {domain!r}; there is some of {', '.join(self.folders)}") from None


@dataclass(frozen=True, slots=True)
class _Folders:
    """Where a domain's examples and shards lie. seen: keys of exam rows that training repeats."""

    examples: Path
    shards: Path
    seen: frozenset[str] = frozenset()


def prepare(settings: Settings, tree: Tree, *, cycle: int, log: Log, tokenizer: Tokenizer | None = None, levels: Mapping[str, int] | None = None,
            resume: bool = True, allow_overlap: bool = False, training: str | None = None) -> Corpus:
    """Bring the data folder up to date for a cycle and open it.

    tokenizer: one to use in place of the run's own, which the first call takes from model.base or trains, and keeps. levels: highest
    curriculum level by domain, for those above data.curriculum_level. training: the name of the training that this corpus is for, whose
    rows no later exam asks; None for a look, which leaves the corpus of every training as it is. resume: when this cycle was prepared
    before (for this training) with the same settings, take that corpus even if files have changed since (the next cycle takes them up),
    so that training goes on where it was. Raises DataError for a data folder that can't be used and for a domain without data,
    ExamOverlap (one of them) for an exam that training repeats beyond data.max_exam_overlap, unless allow_overlap; what was prepared
    before stays in force then. What became of the user's files is logged for a training, where it differs from what its last corpus said.
    """
    if settings.data.format == "text":
        raise DataError("data.format = 'text' is a recipe for one model of plain text, not for a family; train it with "
                        "python fast_train.py --recipe NAME --data FILE")
    work = _Work.of(settings, tree, cycle=cycle, log=log, levels=levels)
    for sub in ("examples", "shards"):
        (work.folder / sub).mkdir(parents=True, exist_ok=True)
        remove_leftovers(work.folder / sub)
    entry = manifest.entry_of(manifest.read(work.folder), training=training)
    corpus = _reopen(work, entry, tokenizer=tokenizer) if resume and entry.get("request") == work.request() else None
    anew = corpus is None
    if corpus is None:
        examples, notes = _examples(work)
        tokenizer = tokenizer or _family_tokenizer(work, examples)
        shards = {domain: _shards(work, domain, path, tokenizer=tokenizer) for domain, path in examples.items()}
        corpus = _assemble(work, examples, shards, notes, entry=entry, tokenizer=tokenizer)
    if not allow_overlap:
        exam_check.require_exams({entry.domain: entry.overlap for entry in corpus.report.domains if entry.overlap}, most=settings.data.max_exam_overlap)
    if training is not None:
        for domain, places in corpus.folders.items():
            trained.remember(work.folder, domain, places.examples)
    if anew and training is not None and (told := corpus.report.of_files()) != entry.get("told", []):
        for line in told:
            log(line)
    manifest.write(work.folder, _entry(work, corpus), training=training)
    if anew:
        manifest.remove_unused(work.folder)
    return corpus


def keep(corpus: Corpus, settings: Settings, tree: Tree, *, cycle: int, levels: Mapping[str, int], training: str) -> None:
    """Take a training's corpus for one more cycle, in place of data that was refused: who resumes that cycle finds it."""
    manifest.write(corpus.folder, _entry(_Work.of(settings, tree, cycle=cycle, log=logger.info, levels=levels), corpus), training=training)


def open_corpus(settings: Settings, tree: Tree) -> Corpus:
    """The corpus that the last prepare left, as it is; nothing is read anew or written. Raises DataError when there is none for this tree."""
    folder = Path(settings.run.dir) / "data"
    entry = manifest.read(folder)
    missing = [domain for domain in tree.domains if domain not in entry.get("domains", {})]
    if missing:
        raise DataError(f"{folder} holds no prepared data of {', '.join(missing)}; run python continuous_loop.py or python -m data_prep build first")
    corpus = _reopen(_Work(settings, tree, folder, entry["cycle"], logger.info, {}), entry, tokenizer=None)
    if corpus is None:
        raise DataError(f"the prepared data in {folder} is damaged or belongs to another tokenizer; run python -m data_prep build to make it again")
    return corpus


@dataclass(frozen=True, slots=True)
class _Work:
    """What one call of prepare works with. levels: the highest of the curriculum, by domain."""

    settings: Settings
    tree: Tree
    folder: Path
    cycle: int
    log: Log
    levels: Mapping[str, int]

    @classmethod
    def of(cls, settings: Settings, tree: Tree, *, cycle: int, log: Log, levels: Mapping[str, int] | None) -> _Work:
        """levels: those that were raised above data.curriculum_level."""
        highest = {domain: max(settings.data.curriculum_level, (levels or {}).get(domain, 0)) for domain in tree.domains}
        return cls(settings, tree, Path(settings.run.dir) / "data", cycle, log, highest)

    def request(self) -> str:
        """sha256 (hex) of what was asked for, contents of files aside."""
        settings = self.settings
        parts = [FORMAT, self.cycle, list(self.tree.domains), settings.data.model_dump(), settings.tokenizer.model_dump(), settings.train.row_tokens,
                 settings.exam.tasks, settings.run.seed, dict(self.levels)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def lessons(self, domain: str) -> Lessons:
        return Lessons.of(self.settings, domain=domain, cycle=self.cycle, level=self.levels[domain])


def _reopen(work: _Work, entry: Mapping[str, Any], *, tokenizer: Tokenizer | None) -> Corpus | None:
    """The corpus that an entry of the manifest names; None when part of it is gone or damaged."""
    names: Mapping[str, Mapping[str, str]] = entry["domains"]
    examples = {domain: work.folder / "examples" / name["examples"] for domain, name in names.items()}
    shards = {domain: work.folder / "shards" / name["shards"] for domain, name in names.items()}
    try:
        for domain in names:
            _verify_shards(shards[domain])
            if load_intake(examples[domain]) is None:
                raise DamagedShard(f"{examples[domain]} isn't there")
        tokenizer = tokenizer or tokenizers.load(work.folder / "tokenizer")
    except (DamagedShard, DamagedExamples, FileNotFoundError) as error:
        logger.warning("the corpus prepared for cycle %d can't be used any more (%s); it is made again", work.cycle, error)
        return None
    corpus = _assemble(work, examples, shards, tuple(entry["notes"]), entry=entry, tokenizer=tokenizer)
    return corpus if corpus.fingerprint == entry["fingerprint"] else None


def _examples(work: _Work) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The examples folder of each domain, made where absent, and notes for the user."""
    data = work.settings.data
    domains = work.tree.domains
    files: Mapping[str, Sequence[DataFile]] = dict.fromkeys(domains, ())
    notes: list[str] = []
    if data.path is not None:
        listing = list_folder(Path(data.path), domains=domains)
        files, notes = listing.files, list(listing.notes)
    strange = [domain for domain in data.hub if domain not in domains]
    if strange:
        raise DataError(f"data.hub names {', '.join(strange)}, which tree.branches doesn't ({', '.join(domains)}); name the domain there, or take its line out")
    fetched = hub.fetch(data.hub, folder=work.folder / "hub", cache_dir=work.folder / "cache")
    files = {domain: (*files[domain], *fetched.get(domain, ())) for domain in domains}
    folders = {}
    for domain in domains:
        taught = data.curriculum != "never" and domain in curriculum.domains()
        lessons = work.lessons(domain) if taught and (data.curriculum == "always" or not files[domain]) else None
        if not files[domain] and lessons is None:
            raise _no_data(work, domain)
        folder, intake = _take_in(work, domain, files[domain], lessons)
        if lessons is None and taught and not all(intake.kept.values()):
            notes.append(f"{domain}: {intake.own:,} of the {intake.read:,} records in its folder can be used, too few; the curriculum adds its own")
            folder, intake = _take_in(work, domain, files[domain], work.lessons(domain))
        if not all(intake.kept.values()):
            raise _no_data(work, domain, intake)
        folders[domain] = folder
    return folders, tuple(notes)


def _take_in(work: _Work, domain: str, files: Sequence[DataFile], lessons: Lessons | None) -> tuple[Path, Intake]:
    learned = trained.load(work.folder, domain)
    folder = work.folder / "examples" / learned.folder(domain, fingerprint(domain, files=files, lessons=lessons, settings=work.settings))
    try:
        found = load_intake(folder)
    except DamagedExamples as error:
        logger.warning("%s; set aside as %s and made again", error, move_aside(folder, "damaged").name)
        found = None
    if found is None:
        work.log(f"{domain}: reading {', '.join(file.name for file in files) or 'the curriculum'}")
        found = take_in(folder, files=files, lessons=lessons, settings=work.settings, cache_dir=work.folder / "cache", trained=learned)
    return folder, found


def _no_data(work: _Work, domain: str, intake: Intake | None = None) -> DataError:
    data = work.settings.data
    found = f"data.path is {data.path!r}" if data.path is not None else "data.path is unset"
    if intake is not None:
        dropped = "; ".join(f"{drops.count} {reason} ({drops.first[0]})" for reason, drops in intake.drops.items())
        kept = ", ".join(f"{count} for {split}" for split, count in intake.kept.items())
        found += f", {intake.read} records read, kept {kept} (at least {LEAST_ROWS} are needed)" + (f", left out: {dropped}" if dropped else "")
        if len(trained.load(work.folder, domain).hashes):
            found += ", and rows that this run trained on are never held out later (bring back the held-out ones, or add new ones)"
    teaches = "data.curriculum is never" if data.curriculum == "never" and domain in curriculum.domains() else \
        f"there is no curriculum for it (only for {', '.join(curriculum.domains())})"
    return DataError(f"domain {domain!r} has too little data: {found}, and {teaches}; put records with prompt and response into "
                     f"<data.path>/{domain}/, or take {domain!r} out of tree.branches")


def _family_tokenizer(work: _Work, examples: Mapping[str, Path]) -> Tokenizer:
    """The tokenizer of the run: the one that is there, since every version depends on it, or that of model.base, or a new one trained on all domains."""
    folder = work.folder / "tokenizer"
    wanted: dict[str, Any] = work.settings.tokenizer.model_dump()
    base = work.settings.model.base
    if base is not None:
        wanted = {"base": base}
    if folder.is_dir():
        try:
            made = json.loads((folder / FACTS).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / FACTS} can't be read ({type(error).__name__}: {error}), and every version of this run depends on that tokenizer; "
                            "bring the file back, or choose another folder with --run DIR") from error
        if made != wanted:
            raise DataError(f"the tokenizer in {folder} was made with {made}, the settings say {wanted}; "
                            "set them back, or choose another folder with --run DIR")
        return tokenizers.load(folder)
    if base is not None:
        work.log(f"taking the tokenizer of {base}")
        tokenizer = base_tokenizer(base)
    else:
        work.log(f"training the tokenizer ({wanted['kind']}) on {', '.join(examples)}")
        tokenizer = tokenizers.train(_tokenizer_texts(examples), settings=work.settings.tokenizer)
    with new_folder(folder, last=FACTS) as temporary:
        tokenizers.save(tokenizer, temporary)
        (temporary / FACTS).write_text(json.dumps({"settings": wanted, "fingerprint": tokenizers.fingerprint(tokenizer)}) + "\n", encoding="utf-8")
    return tokenizers.load(folder)


def _tokenizer_texts(examples: Mapping[str, Path]) -> Iterator[str]:
    """Training prompts and responses, up to TOKENIZER_CHARS of each domain, chosen by content key."""
    for domain, folder in examples.items():
        left = TOKENIZER_CHARS
        for row in sorted(read_examples(folder / "train.parquet", domain=domain), key=lambda row: row.key):
            if left <= 0:
                break
            left -= len(row.prompt) + len(row.response)
            yield row.prompt
            yield row.response


def _shards(work: _Work, domain: str, examples: Path, *, tokenizer: Tokenizer) -> Path:
    """The shards folder of a domain, made where absent or damaged."""
    row_tokens = work.settings.train.row_tokens
    parts = [FORMAT, examples.name, tokenizers.fingerprint(tokenizer), row_tokens]
    folder = work.folder / "shards" / f"{domain}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
    if folder.is_dir():
        try:
            _verify_shards(folder)
            return folder
        except DamagedShard as error:
            logger.warning("%s; set aside as %s and made again", error, move_aside(folder, "damaged").name)
    work.log(f"{domain}: tokenizing")
    with new_folder(folder, last=FACTS) as temporary:
        # A row has a place for every token but a document's last, which is only ever a target.
        facts = {split: write_shard(temporary, split, documents(read_examples(examples / f"{split}.parquet", domain=domain), tokenizer=tokenizer,
                                                                max_tokens=row_tokens + 1), vocab_size=len(tokenizer)) for split in SPLITS}
        lengths = Shard.open(temporary, "train").lengths - 1
        document = {"row_tokens": row_tokens, "efficiency": efficiency(lengths, row_tokens=row_tokens),
                    "splits": {split: asdict(facts[split]) for split in SPLITS}}
        (temporary / FACTS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return folder


def _verify_shards(folder: Path) -> None:
    """Raises DamagedShard when a file of the folder isn't the one that was written, or its facts can't be read."""
    for split in SPLITS:
        verify_shard(folder, split)
    try:
        known = set(json.loads((folder / FACTS).read_text(encoding="utf-8"))["splits"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedShard(f"{folder / FACTS} can't be read: {type(error).__name__}: {error}") from error
    if known != set(SPLITS):
        raise DamagedShard(f"{folder / FACTS} tells of the splits {sorted(known)}, not of {', '.join(SPLITS)}")


def _assemble(work: _Work, examples: Mapping[str, Path], shards: Mapping[str, Path], notes: tuple[str, ...], *,
              entry: Mapping[str, Any], tokenizer: Tokenizer) -> Corpus:
    data = work.settings.data
    question = exam_check.question(examples, data)
    known = entry.get("overlap", {})
    if known.get("question") == question:
        overlaps = {domain: Overlap.from_json(facts) for domain, facts in known["answer"].items()}
    else:
        overlaps = exam_check.overlaps(examples, similarity=data.near_duplicate, most=data.max_exam_overlap)
    tokenizer_print = tokenizers.fingerprint(tokenizer)
    report = Report(tuple(_domain_report(domain, path, shards[domain], overlaps.get(domain)) for domain, path in examples.items()), notes,
                    {"entries": len(tokenizer), "fingerprint": tokenizer_print})
    folders = {domain: _Folders(path, shards[domain], frozenset(overlaps[domain].keys if domain in overlaps else ())) for domain, path in examples.items()}
    names = [[domain, places.examples.name, places.shards.name] for domain, places in folders.items()]
    return Corpus(tokenizer, hashlib.sha256(json.dumps([tokenizer_print, names]).encode()).hexdigest(), work.folder, report, folders)


def _domain_report(domain: str, examples: Path, shards: Path, overlap: Overlap | None) -> DomainReport:
    intake = load_intake(examples)
    if intake is None:
        raise FileNotFoundError(f"{examples} is gone; something else removes files from the run folder")
    facts = json.loads((shards / FACTS).read_text(encoding="utf-8"))
    splits = facts["splits"]
    written = sum(splits[split]["tokens"] + splits[split]["cut_tokens"] for split in SPLITS)
    packing = Packing(tokens={split: splits[split]["tokens"] for split in SPLITS}, answer_tokens={split: splits[split]["answer_tokens"] for split in SPLITS},
                      cut_prompts=sum(splits[split]["cut_prompts"] for split in SPLITS), cut_responses=sum(splits[split]["cut_responses"] for split in SPLITS),
                      cut_tokens=sum(splits[split]["cut_tokens"] for split in SPLITS), efficiency=facts["efficiency"],
                      bytes_per_token=sum(intake.text_bytes.values()) / max(1, written))
    return DomainReport(domain, intake, packing, overlap)


def _entry(work: _Work, corpus: Corpus) -> dict[str, Any]:
    """What the manifest keeps of a corpus."""
    examples = {domain: places.examples for domain, places in corpus.folders.items()}
    overlap = {"question": exam_check.question(examples, work.settings.data),
               "answer": {entry.domain: asdict(entry.overlap) for entry in corpus.report.domains if entry.overlap}}
    domains = {domain: {"examples": places.examples.name, "shards": places.shards.name} for domain, places in corpus.folders.items()}
    return {"cycle": work.cycle, "request": work.request(), "fingerprint": corpus.fingerprint, "domains": domains,
            "notes": list(corpus.report.notes), "told": corpus.report.of_files(), "overlap": overlap, "levels": dict(work.levels)}
