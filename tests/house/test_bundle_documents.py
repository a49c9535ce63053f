"""What the documents say about bundles is what the program does, word by word."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from agent.authoring import BundleSettings
from agent.bundle.tables import MAX_CSV_BYTES, MAX_NPZ_BYTES
from agent.declared import FamilySettings
from agent.learning.derive import LARGEST_MODEL
from agent.learning.ir import DEFAULT_LIMITS
from agent.model import MAX_GOLDEN_ROWS
from wire.codec import MAX_BYTES
from wire.manifest import (
    MAX_INPUT_ELEMENTS,
    Alarm,
    Channel,
    Feature,
    Label,
    LossName,
    Manifest,
    Recipe,
    Split,
    Window,
)
from wire.messages import MAX_COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"
SPECIFICATION = (DOCS / "bundle.md").read_text()
TUTORIAL = (DOCS / "tutorial-bundle.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def section(start: str, end: str) -> str:
    found = SPECIFICATION.partition(start)[2].partition(end)[0]
    assert found, start
    return found


TABLES = {
    Channel: section("`[[channel]]`: ", "`[label]`: "),
    Label: section("`[label]`: ", "`[window]`: "),
    Window: section("`[window]`: ", "`[recipe]`: "),
    Recipe: section("`[recipe]`: ", "`[split]`: "),
    Split: section("`[split]`: ", "`[alarm]`: "),
    Alarm: section("`[alarm]`: ", "Either `missed_cost`"),
}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_of_a_table_is_specified_with_its_default(table: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(table):
        rows = [
            line.split("|") for line in TABLES[table].splitlines() if f"`{field.name}`" in line[:40]
        ]
        assert len(rows) == 1, field.name
        shown = rows[0][3].strip()
        if field.required:
            assert shown == "needed", field.name
        elif isinstance(field.default, int | float) and "," not in shown:
            assert float(shown) == float(field.default), field.name
        elif isinstance(field.default, str):
            assert shown == f"`{field.default}`"


def test_every_key_of_a_description_is_specified() -> None:
    text = section("## The description", "`[[channel]]`: ")
    for name in BundleSettings.__struct_fields__:
        assert re.search(rf"^\| `\[*{name}\]*` \|", text, re.MULTILINE), name


def test_every_field_of_the_manifest_is_specified() -> None:
    text = section("The **manifest**", "## Features")
    for name in Manifest.__struct_fields__:
        assert f"`{name}`" in text, name


def test_every_feature_is_specified_with_its_keys() -> None:
    text = section("## Features", "### Standardising")
    for kind in get_args(Feature):
        assert f"| `{kind.__struct_config__.tag}` |" in text
        for name in kind.__struct_fields__:
            assert f"`{name}`" in text, name


def test_every_loss_and_every_family_is_specified() -> None:
    losses = section("## Losses", "## Families")
    families = section("## Families", "## Data files")
    for name in get_args(LossName):
        assert f"| `{name}` |" in losses
    for family in get_args(FamilySettings):
        row = next(
            line
            for line in families.splitlines()
            if f"| `{family.__struct_config__.tag}` |" in line
        )
        for name in set(family.__struct_fields__) - {"seed"}:
            assert f"`{name}`" in row, name


def test_the_caps_are_those_of_the_program() -> None:
    text = section("| cap | |", "## What a bundle")
    limits = DEFAULT_LIMITS
    for words in (
        f"| the file | {MAX_BYTES['bundle']:,} bytes |",
        f"| numbers in one input | {MAX_INPUT_ELEMENTS:,} |",
        f"| columns of all features | {MAX_COLUMNS:,} |",
        f"| graph file | {limits.total_bytes >> 20} MiB |",
        f"| nodes; tensors | {limits.nodes:,}; {limits.tensors:,} |",
        f"{limits.tensor_elements >> 20} Mi elements; {limits.tensor_bytes >> 20} MiB |",
        f"all together | {LARGEST_MODEL >> 20} Mi elements |",
        f"| golden rows | {MAX_GOLDEN_ROWS} |",
        f"| CSV; npz unpacked | {MAX_CSV_BYTES >> 30} GiB; {MAX_NPZ_BYTES >> 30} GiB |",
    ):
        assert words in text


def test_the_tutorial_can_be_followed_word_by_word(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the tutorial begins with a PyTorch model")
    pytest.importorskip("onnx", reason="torch.onnx.export needs the onnx package")
    said = ""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for language, text in BLOCK.findall(TUTORIAL):
        if language == "sh":
            done = subprocess.run(
                ["bash", "-e", "-c", text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
        elif language != "text":
            name = text.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(text)
    means = {
        who: float(line.split()[-1])
        for line in said.partition("each model (line)")[2].splitlines()
        for who in ("looks at no input", "north.csv alone", "together")
        if line.strip().startswith(who)
    }
    assert means["together"] > 0.97
    assert means["together"] > means["north.csv alone"] + 0.1  # what the tutorial tells
    assert means["north.csv alone"] > means["looks at no input"]
    assert said.count("✓") == 9
    assert "holds: agents train and serve it" in said
    assert (tmp_path / "trained.tflite").read_bytes()[4:8] == b"TFL3"
