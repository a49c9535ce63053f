"""The tutorial of proposals does what it says, word by word."""

import os
import re
import subprocess
import sys
from pathlib import Path

from agent.recommend.recipe import Recipe, SetPoint

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "recommend.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_tutorial_of_proposals_can_be_followed_word_by_word(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CONFIGS": str(ROOT / "configs"),
        "OMP_NUM_THREADS": "1",
    }
    said = ""
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
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    lines = {line.split(maxsplit=1)[0]: line for line in said.splitlines() if line.strip()}
    together = [float(word) for word in lines["together"].split()[1:]]
    assert len(together) == 6
    assert max(together) < 40.0
    assert re.search(r"change +-\d", said)
    assert "nothing was written to any machine" in said


def test_every_key_of_a_recipe_is_in_the_tutorials_table() -> None:
    table = TUTORIAL.partition("| key | meaning |")[2].partition("\n\n")[0]
    for name in (*Recipe.__struct_fields__, *SetPoint.__struct_fields__):
        assert f"`{name}`" in table or f"`[[{name}]]`" in table, name
