"""What must hold of the folders that Kaggle's client pushes: it lets most of this pass silently.

Used by build_kernel.py; imports nothing of the package.
"""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACEHOLDER = "your-kaggle-name"
OWNER = r"[A-Za-z0-9][A-Za-z0-9_-]*"
# The server refuses 1 MB of notebook.
MAX_NOTEBOOK_BYTES = 1_000_000
# Kaggle's accelerators that the image's torch can drive: not the P100, which a kernel gets by default.
MACHINE_SHAPES = (
    "NvidiaTeslaT4",
    "NvidiaTeslaT4Highmem",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaTeslaA100",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
# The names of Kaggle's documentation (kaggle-cli, docs/datasets_metadata.md); the client sends any on to the server.
LICENSES = (
    "CC0-1.0 CC-BY-3.0 CC-BY-3.0-IGO CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-3.0-IGO "
    "CC-BY-NC-SA-4.0 CC-BY-ND-4.0 CC-BY-NC-ND-4.0 GPL-2.0 GPL-3.0 LGPL-3.0 AGPL-3.0 FDL-1.3 ODbL-1.0 DbCL-1.0 "
    "ODC-BY-1.0 PDDL CDLA-Permissive-1.0 CDLA-Sharing-1.0 US-Government-Works EU-ODP-Legal-Notice apache-2.0 "
    "copyright-authors other unknown"
).split()
_SLUG = "[a-z0-9]+(?:-[a-z0-9]+)*"


@dataclass(frozen=True)
class Rule:
    """What one key of a metadata file must hold."""

    accepts: Callable[[Any], bool]
    expected: str
    remedy: str
    required: bool = True


def _is(wanted: bool) -> Callable[[Any], bool]:
    return lambda value: value is wanted  # 0 and "false" are not false


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: value in choices


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _list(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(_text(pattern), value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_ID_NUMBER = Rule(
    _is_number, "a whole number above 0", "correct or remove it: the client prefers it to id", required=False
)
_LIST_OF_OBJECTS = Rule(
    lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
    "a list of objects",
    "correct or remove it",
    required=False,
)
_TEXT = Rule(_text("(?s).+"), "a text", "correct or remove it", required=False)
KERNEL_RULES = {
    "id_no": _ID_NUMBER,
    "id": Rule(
        _text(f"{OWNER}/(?=.{{5,50}}$){_SLUG}"),
        "owner/slug, the slug 5 to 50 lower-case letters, digits and hyphens",
        "name the notebook",
    ),
    "title": Rule(_text(".{5,50}"), "a text of 5 to 50 characters", "write the id's slug"),
    "code_file": Rule(_text(r".+\.ipynb"), "the path of the notebook", "name it, relative to the metadata"),
    "language": Rule(_one_of("python"), '"python"', "write that"),
    "kernel_type": Rule(_one_of("notebook"), '"notebook"', "write that"),
    "is_private": Rule(lambda value: isinstance(value, bool), "true or false", "write true, without quotes"),
    "enable_gpu": Rule(_is(True), "true", "write true, without quotes: the CPU is too slow for the hidden test"),
    "enable_tpu": Rule(_is(False), "false", "write false, without quotes", required=False),
    "enable_internet": Rule(
        _is(False),
        "false",
        "write false, without quotes: the client turns the internet on by default, and the competition refuses it",
    ),
    "machine_shape": Rule(
        _one_of(*MACHINE_SHAPES),
        f"one of {', '.join(MACHINE_SHAPES)}",
        "write NvidiaTeslaT4: the default is a P100, which the image's torch cannot drive",
    ),
    "docker_image_pinning_type": Rule(
        _one_of("original", "latest"), '"original" or "latest"', "write original, which keeps the image"
    ),
    "docker_image": Rule(_text(".+"), "the name of an image", "remove it", required=False),
    "dataset_sources": Rule(_list(f"{OWNER}/{_SLUG}"), "a list of owner/slug", "correct it"),
    "competition_sources": Rule(_list(_SLUG), "a list of bare slugs", "leave out owner and address"),
    "kernel_sources": Rule(_list(f"{OWNER}/{_SLUG}"), "a list of owner/slug", "correct it", required=False),
    "model_sources": Rule(
        _list(rf"{OWNER}/[\w.-]+/[\w.-]+/[\w.-]+/[1-9][0-9]*"),
        "a list of owner/model/framework/variation/version",
        "give every model its version, a number",
        required=False,
    ),
    "keywords": Rule(_list(".+"), "a list of texts", "correct it", required=False),
}
DATASET_RULES = {
    "id_no": _ID_NUMBER,
    "id": Rule(
        _text(f"{OWNER}/(?=.{{6,50}}$){_SLUG}"),
        "owner/slug, the slug 6 to 50 lower-case letters, digits and hyphens",
        "name the dataset",
    ),
    "title": Rule(_text(".{6,50}"), "a text of 6 to 50 characters", "write the id's slug"),
    "licenses": Rule(
        lambda value: isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "name" in value[0],
        'a list of one {"name": "..."}',
        'write [{"name": "other"}] or a license',
    ),
    "subtitle": Rule(_text(".{20,80}"), "a text of 20 to 80 characters", "correct or remove it", required=False),
    "description": _TEXT,
    "keywords": Rule(_list(".+"), "a list of texts", "correct or remove it", required=False),
    "resources": _LIST_OF_OBJECTS,
    # These are read by kaggle datasets metadata --update alone.
    "isPrivate": Rule(lambda value: isinstance(value, bool), "true or false", "write true", required=False),
    "collaborators": _LIST_OF_OBJECTS,
    "data": _LIST_OF_OBJECTS,
    "userSpecifiedSources": _TEXT,
    "expectedUpdateFrequency": _TEXT,
    "image": _TEXT,
}


def kernel_problems(folder: Path, owner: str, competition: str, dataset_slug: str) -> Iterator[str]:
    """Checks a folder for `kaggle kernels push -p`.

    Args:
        folder: has kernel-metadata.json and the notebook it names.
        owner: whose notebook it is.
        competition: slug of the competition that the notebook asks for.
        dataset_slug: slug of the owner's dataset that the notebook asks for.

    Yields:
        One line per problem: what was expected, what was found, what to do.
    """
    path = folder / "kernel-metadata.json"
    metadata, problem = _read_json(path)
    if metadata is None:
        yield problem
        return
    yield from _key_problems(path.name, metadata, KERNEL_RULES)
    yield from _name_problems(path.name, metadata, owner)
    sources: Any = metadata.get("competition_sources")
    if KERNEL_RULES["competition_sources"].accepts(sources) and competition not in sources:
        yield (
            f"{path.name}: competition_sources must name {competition!r}, which the notebook reads, found {sources}: "
            f"add it"
        )
    yield from _checkpoint_source_problems(path.name, metadata, f"{owner}/{dataset_slug}")
    if KERNEL_RULES["code_file"].accepts(metadata.get("code_file")):
        yield from _notebook_problems(folder, metadata["code_file"])


def dataset_problems(folder: Path, owner: str, dataset_slug: str) -> Iterator[str]:
    """Checks a folder for `kaggle datasets create -p` and `version -p`; arguments and lines as `kernel_problems`."""
    path = folder / "dataset-metadata.json"
    metadata, problem = _read_json(path)
    if metadata is None:
        yield problem
        return
    yield from _key_problems(path.name, metadata, DATASET_RULES)
    yield from _name_problems(path.name, metadata, owner)
    found: Any = metadata.get("id")
    if DATASET_RULES["id"].accepts(found) and found.split("/")[1] != dataset_slug:
        yield f"{path.name}: id must end in {dataset_slug!r}, which the notebook reads, found {found!r}: write that"
    if DATASET_RULES["licenses"].accepts(metadata.get("licenses")):
        yield from _license_problems(path.name, metadata["licenses"][0]["name"])
    resources = metadata.get("resources", [])
    for resource in resources if _LIST_OF_OBJECTS.accepts(resources) else []:
        if not isinstance(resource.get("path"), str) or not (folder / resource["path"]).is_file():
            yield (
                f"{path.name}: resources must name files that go up, found {_shown(resource.get('path'))}: correct or "
                f"remove it"
            )
    if not any(path.is_file() and path.stat().st_size for path in folder.glob("*.safetensors")):
        yield f"{folder.name}: expected at least one *.safetensors file, found none: train one, or take the shipped one"


def next_commands(push_dir: Path, competition: str) -> list[str]:
    """What is left to do once push/ is there, with the names filled in.

    Args:
        push_dir: as `write_push_dir` made it.
        competition: its slug.
    """
    kernel = json.loads((push_dir / "kernel-metadata.json").read_text())["id"]
    dataset = json.loads((push_dir / "kernel" / "checkpoints" / "dataset-metadata.json").read_text())["id"]
    client = Path(sys.executable).with_name("kaggle")
    kaggle = os.path.relpath(client) if client.exists() else "kaggle"
    push = os.path.relpath(push_dir)
    return [
        "next, the checkpoints: the first time, and later",
        f"  {kaggle} datasets create -p {push}/kernel/checkpoints",
        f'  {kaggle} datasets version -p {push}/kernel/checkpoints -m "what changed"',
        f"  {kaggle} datasets status {dataset}",
        "when that says ready, the notebook, and when its run is complete, the submission of the version it has",
        f"  {kaggle} kernels push -p {push}",
        f"  {kaggle} kernels status {kernel}",
        f'  {kaggle} competitions submit {competition} -k {kernel} -v VERSION -f submission.csv -m "what it is"',
    ]


def _license_problems(file_name: str, name: Any) -> Iterator[str]:
    if name in LICENSES:
        return
    by_key = {re.sub("[^a-z0-9]", "", known.lower()): known for known in LICENSES}
    close = difflib.get_close_matches(re.sub("[^a-z0-9]", "", str(name).lower()), by_key, 1, 0.8)
    remedy = f"write {by_key[close[0]]!r}" if close else "write 'other', and the license into the description"
    yield f"{file_name}: licenses must name one of {', '.join(LICENSES)}, found {_shown(name)}: {remedy}"


def _checkpoint_source_problems(file_name: str, metadata: dict[str, Any], dataset: str) -> Iterator[str]:
    """The notebook averages the checkpoints of one input: the owner's dataset, or a model of the same slug."""
    kinds = ("dataset_sources", "model_sources")
    sources = {key: metadata.get(key, []) for key in kinds}
    if not all(KERNEL_RULES[key].accepts(sources[key]) for key in kinds):
        return
    slug = dataset.split("/")[1]
    named = sorted({source for key in kinds for source in sources[key] if source.split("/")[1] == slug})
    if len(named) > 1:
        yield f"{file_name}: one input may have the slug {slug!r}, which the notebook reads, found {named}: keep one"
    elif named != [dataset] and (not named or named[0] in sources["dataset_sources"]):
        yield (
            f"{file_name}: dataset_sources must name {dataset!r}, which the notebook reads, found "
            f"{sources['dataset_sources']}: add it"
        )


def _read_json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A JSON object, or the line that says why there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    except OSError as error:
        return None, f"{path.name}: expected a JSON object, found no file to read ({error.strerror}): put it there"
    except (ValueError, RecursionError) as error:
        return None, f"{path.name}: expected a JSON object, found one that cannot be read ({error}): correct it"
    if not isinstance(content, dict):
        return None, f"{path.name}: expected a JSON object, found {_shown(content)}: put it in braces"
    return content, ""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The client takes the last of two equal keys and says nothing."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return content


def _key_problems(file_name: str, metadata: dict[str, Any], rules: dict[str, Rule]) -> Iterator[str]:
    for key in sorted(metadata.keys() - rules.keys()):
        close = difflib.get_close_matches(key, rules, 1)
        remedy = f"write {close[0]!r}" if close else "remove it"
        yield f"{file_name}: expected only keys that the client reads, found {key!r}: {remedy}"
    for key, rule in rules.items():
        if key not in metadata and rule.required:
            yield f"{file_name}: {key} must be {rule.expected}, found nothing: {rule.remedy}"
        elif key in metadata and not rule.accepts(metadata[key]):
            yield f"{file_name}: {key} must be {rule.expected}, found {_shown(metadata[key])}: {rule.remedy}"


def _name_problems(file_name: str, metadata: dict[str, Any], owner: str) -> Iterator[str]:
    """The owner, and a title that gives the slug of the id."""
    if PLACEHOLDER in json.dumps(metadata):
        yield f"{file_name}: expected your name on Kaggle, found {PLACEHOLDER!r}: give --owner NAME"
    found: Any = metadata.get("id")
    title = metadata.get("title")
    if not _text(f"{OWNER}/{_SLUG}")(found):
        return
    found_owner, slug = found.split("/")
    if found_owner != owner:
        yield f"{file_name}: the owner of id must be {owner!r}, found {found_owner!r}: write {PLACEHOLDER!r} there"
    if isinstance(title, str) and _slug_of(title) != slug:
        yield (
            f"{file_name}: title must give the slug of id, {slug!r}, found {title!r}, which gives "
            f"{_slug_of(title)!r}: Kaggle would take that for another name; write {slug!r}"
        )


def _notebook_problems(folder: Path, code_file: str) -> Iterator[str]:
    path = folder / code_file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        yield f"kernel-metadata.json: code_file must be a file in its folder, found {code_file!r}: correct the path"
        return
    notebook, problem = _read_json(path)
    if notebook is None:
        yield problem
        return
    try:
        name = notebook["metadata"]["kernelspec"]["name"]
        # As the client sends it.
        cells = [{**cell, "outputs": [], "source": "".join(cell["source"])} for cell in notebook["cells"]]
    except (KeyError, TypeError) as error:
        yield f"{path.name}: expected cells and metadata.kernelspec.name, found no {error}: Kaggle would not start it"
        return
    if name != "python3":
        yield f"{path.name}: metadata.kernelspec.name must be 'python3', found {_shown(name)}: build the notebook again"
    size = len(json.dumps({**notebook, "cells": cells}))
    if size >= MAX_NOTEBOOK_BYTES:
        yield f"{path.name}: expected less than {MAX_NOTEBOOK_BYTES:,} bytes, found {size:,}: leave modules out"


def _slug_of(title: str) -> str:
    """As Kaggle makes a slug of a title, for plain letters."""
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


def _shown(value: Any) -> str:
    """A value as it stands in JSON, on one line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
