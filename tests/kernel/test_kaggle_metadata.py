"""The rules for what is pushed: one wrong key each, and the line that names it."""

import json

import pytest
from conftest import REPOSITORY

from kaggle_metadata import PLACEHOLDER, dataset_problems, kernel_problems

COMPETITION, DATASET = "blood-vessel-segmentation", "sennet-kaggle-checkpoints"
MISSING = object()
NOTEBOOK = {"cells": [{"cell_type": "code", "source": ["1\n", "2"]}], "metadata": {"kernelspec": {"name": "python3"}}}


@pytest.fixture
def kernel_dir(tmp_path):
    """The repository's kernel-metadata.json in the name of alice, with a tiny notebook."""
    text = (REPOSITORY / "kernel-metadata.json").read_text().replace(PLACEHOLDER, "alice")
    (tmp_path / "kernel-metadata.json").write_text(text)
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "sennet.ipynb").write_text(json.dumps(NOTEBOOK))
    return tmp_path


@pytest.fixture
def dataset_dir(tmp_path):
    text = (REPOSITORY / "kernel" / "checkpoints" / "dataset-metadata.json").read_text().replace(PLACEHOLDER, "alice")
    (tmp_path / "dataset-metadata.json").write_text(text)
    (tmp_path / "unet.safetensors").write_bytes(b"weights")
    return tmp_path


def change(path, **values) -> None:
    metadata = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in metadata.items() if value is not MISSING}))


def problems_of_kernel(folder) -> list[str]:
    return list(kernel_problems(folder, "alice", COMPETITION, DATASET))


def problems_of_dataset(folder) -> list[str]:
    return list(dataset_problems(folder, "alice", DATASET))


def test_what_the_repository_has_is_accepted(kernel_dir, dataset_dir):
    assert problems_of_kernel(kernel_dir) == problems_of_dataset(dataset_dir) == []


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"id": MISSING}, "id must be owner/slug"),
        ({"id": "alice/sen", "title": "..sen.."}, 'id must be owner/slug, .* found "alice/sen"'),
        ({"id": "sennet-kaggle"}, "id must be owner/slug"),
        ({"id": "alice/sennet-kaggle/3"}, "id must be owner/slug"),
        ({"id": "bob/sennet-kaggle"}, "the owner of id must be 'alice', found 'bob'"),
        (
            {"title": "Vessels"},
            "title must give the slug of id, 'sennet-kaggle', found 'Vessels', which gives 'vessels'",
        ),
        ({"title": "INSERT_TITLE_HERE"}, "title must give the slug of id"),
        ({"code_file": MISSING}, "code_file must be the path of the notebook, found nothing"),
        ({"code_file": "kernel/other.ipynb"}, "code_file must be a file in its folder, found 'kernel/other.ipynb'"),
        ({"code_file": "../sennet.ipynb"}, "code_file must be a file in its folder"),
        ({"language": "Python"}, 'language must be "python", found "Python"'),
        ({"kernel_type": "script"}, 'kernel_type must be "notebook"'),
        ({"is_private": 1}, "is_private must be true or false, found 1"),
        ({"is_private": MISSING}, "is_private must be true or false, found nothing"),
        ({"enable_gpu": "true"}, 'enable_gpu must be true, found "true"'),
        ({"enable_tpu": 0}, "enable_tpu must be false, found 0"),
        ({"enable_internet": True}, "enable_internet must be false, found true"),
        ({"enable_internet": "false"}, 'enable_internet must be false, found "false"'),
        ({"enable_internet": 0}, "enable_internet must be false, found 0"),
        (
            {"machine_shape": MISSING},
            "machine_shape must be one of NvidiaTeslaT4, .* found nothing: write NvidiaTeslaT4",
        ),
        ({"machine_shape": "NvidiaTeslaP100"}, "machine_shape must be one of"),
        ({"docker_image_pinning_type": "newest"}, "docker_image_pinning_type must be"),
        ({"competition_sources": []}, "competition_sources must name 'blood-vessel-segmentation', .* found \\[\\]"),
        ({"competition_sources": COMPETITION}, "competition_sources must be a list of bare slugs"),
        ({"competition_sources": [f"competitions/{COMPETITION}"]}, "competition_sources must be a list of bare slugs"),
        ({"dataset_sources": [DATASET]}, "dataset_sources must be a list of owner/slug"),
        ({"dataset_sources": ["alice/others"]}, f"dataset_sources must name 'alice/{DATASET}'"),
        ({"dataset_sources": None}, "dataset_sources must be a list of owner/slug, found null"),
        ({"model_sources": ["google/vit/pyTorch/b16"]}, "model_sources must be .*/version, found"),
        ({"model_sources": ["google/vit/pyTorch/b16/latest"]}, "model_sources must be .*/version, found"),
        ({"keywords": "gpu"}, "keywords must be a list"),
    ],
)
def test_a_wrong_value_in_kernel_metadata(kernel_dir, values, start):
    change(kernel_dir / "kernel-metadata.json", **values)
    (problem,) = problems_of_kernel(kernel_dir)
    with pytest.raises(ValueError, match=f"^kernel-metadata.json: {start}.*: .+"):
        raise ValueError(problem)


def test_a_typo_is_found_with_the_key_that_was_meant(kernel_dir):
    change(kernel_dir / "kernel-metadata.json", enable_internet=MISSING, enable_interent=False)
    unknown, missing = problems_of_kernel(kernel_dir)
    assert unknown.endswith("found 'enable_interent': write 'enable_internet'")
    assert "enable_internet must be false, found nothing" in missing


def test_the_owner_left_out_is_found(kernel_dir):
    change(kernel_dir / "kernel-metadata.json", kernel_sources=[f"{PLACEHOLDER}/helpers"])
    assert problems_of_kernel(kernel_dir) == [
        "kernel-metadata.json: expected your name on Kaggle, found 'your-kaggle-name': give --owner NAME"
    ]


def test_versioned_models_and_further_sources_are_accepted(kernel_dir):
    change(
        kernel_dir / "kernel-metadata.json",
        model_sources=["google/gemma/pyTorch/1.1-2b-it/1"],
        dataset_sources=["bob/others", f"alice/{DATASET}"],
        kernel_sources=["alice/helpers"],
        keywords=["gpu"],
        enable_tpu=MISSING,
    )
    assert problems_of_kernel(kernel_dir) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "cannot be read", id="no JSON"),
        pytest.param("[]", r"expected a JSON object, found \[\]", id="list"),
        pytest.param('{"id": 1, "id": 2}', "'id' stands there twice", id="twins"),
        pytest.param('{"a":' * 100_000, "cannot be read", id="deep"),
    ],
)
def test_unreadable_metadata(kernel_dir, text, message):
    (kernel_dir / "kernel-metadata.json").write_text(text)
    (problem,) = problems_of_kernel(kernel_dir)
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        ({**NOTEBOOK, "metadata": {}}, "found no 'kernelspec': Kaggle would not start it"),
        ({**NOTEBOOK, "metadata": {"kernelspec": {"name": "ir"}}}, "name must be 'python3', found \"ir\""),
        ({**NOTEBOOK, "cells": [{"source": "x" * 999_930}]}, "expected less than 1,000,000 bytes, found 1,000,0"),
        ({**NOTEBOOK, "cells": 3}, "expected cells"),
    ],
)
def test_a_notebook_that_kaggle_would_not_run(kernel_dir, notebook, message):
    (kernel_dir / "kernel" / "sennet.ipynb").write_text(json.dumps(notebook))
    (problem,) = problems_of_kernel(kernel_dir)
    assert problem.startswith("sennet.ipynb: ") and message in problem


def test_outputs_do_not_count(kernel_dir):
    """The client removes them, and so a notebook that was run may be larger than what is sent."""
    cells = [{"cell_type": "code", "source": "1", "outputs": ["x" * 1_000_000]}]
    (kernel_dir / "kernel" / "sennet.ipynb").write_text(json.dumps({**NOTEBOOK, "cells": cells}))
    assert problems_of_kernel(kernel_dir) == []


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"id": "bob/sennet-kaggle-checkpoints"}, "the owner of id must be 'alice', found 'bob'"),
        ({"id": "alice/weights", "title": "weights"}, "id must end in 'sennet-kaggle-checkpoints'"),
        ({"title": "checkpoints"}, "title must give the slug of id"),
        ({"title": MISSING}, "title must be a text of 6 to 50 characters, found nothing"),
        ({"licenses": []}, 'licenses must be a list of one {"name": "..."}, found []'),
        ({"licenses": ["MIT"]}, "licenses must be"),
        ({"subtitle": "short"}, "subtitle must be a text of 20 to 80 characters"),
        ({"is_private": True}, "expected only keys that the client reads, found 'is_private': write 'isPrivate'"),
        ({"owner": "alice"}, "expected only keys that the client reads, found 'owner': remove it"),
        ({"id_no": 0}, "id_no must be a whole number above 0, found 0"),
        ({"licenses": [{"name": "Apache-2.0"}]}, "licenses must name one of CC0-1.0, "),
        ({"licenses": [{"name": None}]}, "licenses must name one of CC0-1.0, "),
        ({"resources": [{"path": "no.safetensors"}]}, 'resources must name files that go up, found "no.safe'),
        ({"resources": "unet.safetensors"}, "resources must be a list of objects"),
    ],
)
def test_a_wrong_value_in_dataset_metadata(dataset_dir, values, start):
    change(dataset_dir / "dataset-metadata.json", **values)
    (problem,) = problems_of_dataset(dataset_dir)
    assert problem.startswith(f"dataset-metadata.json: {start}")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("Apache-2.0", "write 'apache-2.0'"),
        ("CC BY-SA 4.0", "write 'CC-BY-SA-4.0'"),
        ("GPL2", "write 'GPL-2.0'"),
        ("MIT", "write 'other', and the license into the description"),
        ("", "write 'other', and the license into the description"),
    ],
)
def test_an_unknown_license_gives_the_one_that_was_meant(dataset_dir, name, remedy):
    change(dataset_dir / "dataset-metadata.json", licenses=[{"name": name}])
    (problem,) = problems_of_dataset(dataset_dir)
    assert problem.endswith(f"found {json.dumps(name)}: {remedy}")


def test_all_keys_that_the_client_reads_are_known(dataset_dir, kernel_dir):
    change(
        dataset_dir / "dataset-metadata.json",
        id_no=12345,
        licenses=[{"name": "apache-2.0", "title": "Apache 2", "path": "LICENSE"}],
        resources=[{"path": "unet.safetensors", "description": "a U-Net"}],
        isPrivate=True,
        collaborators=[],
        data=[],
        userSpecifiedSources="HiP-CT",
        expectedUpdateFrequency="never",
        image="cover.png",
    )
    change(kernel_dir / "kernel-metadata.json", id_no=12345)
    assert problems_of_dataset(dataset_dir) == problems_of_kernel(kernel_dir) == []


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"dataset_sources": [f"alice/{DATASET}", f"bob/{DATASET}"]}, "one input may have the slug"),
        ({"model_sources": [f"alice/{DATASET}/pyTorch/default/1"]}, "one input may have the slug"),
        (
            {"dataset_sources": [], "model_sources": [f"alice/{DATASET}/pyTorch/{name}/1" for name in ("a", "b")]},
            "one input may have the slug",
        ),
        ({"dataset_sources": [f"bob/{DATASET}"]}, f"dataset_sources must name 'alice/{DATASET}'"),
        ({"dataset_sources": [], "model_sources": [f"alice/{DATASET}/pyTorch/default/1"]}, None),
    ],
    ids=["two owners", "dataset and model", "two variations", "another owner's", "a model instead"],
)
def test_the_notebook_reads_the_checkpoints_of_one_input(kernel_dir, sources, message):
    change(kernel_dir / "kernel-metadata.json", **sources)
    problems = problems_of_kernel(kernel_dir)
    assert len(problems) == (message is not None)
    assert not problems or message in problems[0]


@pytest.mark.parametrize("content", [None, b""], ids=["none", "empty"])
def test_a_dataset_without_checkpoint(dataset_dir, content):
    (dataset_dir / "unet.safetensors").unlink()
    if content is not None:
        (dataset_dir / "unet.safetensors").write_bytes(content)
    (problem,) = problems_of_dataset(dataset_dir)
    assert "expected at least one *.safetensors file, found none" in problem
