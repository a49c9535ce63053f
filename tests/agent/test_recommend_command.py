"""`journeyman recommend`: from files at a desk, and from a gateway's own state."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from agent.adoption import Adoption
from agent.authoring import build_bundle, read_bundle_settings
from agent.bundle.examples import Site, make_examples, make_site
from agent.bundle.tables import read_table
from agent.bundle.trial import learn_together
from agent.config import read_agent_settings
from agent.enrolled import read_enrolled
from agent.history import History
from agent.model import prepare
from agent.models import Models
from agent.signals.features import apply_standard, measure
from agent.signals.rows import rows_of
from shopfloor.line import CONDITIONS, LABEL, SETTINGS, SITES, generate, write_csv
from shopfloor.main import main
from tests.agent.federation import AGENT, FEDERATION, agent_toml, feed, found_federation
from wire.bundle import Bundle
from wire.chunks import sha256
from wire.standards import write_standard
from wire.tensors import Params, read_safetensors, write_params

ROOT = Path(__file__).parents[2]
JOB = ROOT / "configs" / "jobs" / "process.toml"
RECIPE = ROOT / "configs" / "recommend.toml"
CHANNELS = [*SETTINGS, *CONDITIONS, LABEL, "shift"]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites' files, a signed bundle, what they learned together, and one site's gateway."""
    folder = tmp_path_factory.mktemp("plant")
    federation = found_federation(folder / "keys")
    signed = build_bundle(JOB, read_bundle_settings(JOB), FEDERATION, federation.author)
    federation = replace(federation, bundle=signed)
    (folder / "process.jm").write_bytes(signed)
    lines = [generate(site, 400, seed=0) for site in range(SITES)]
    for at, line in enumerate(lines):
        write_csv(line, folder / f"site-{at}.csv")
    bundle, manifest = federation.opened, federation.opened.manifest
    sites = []
    for at in range(SITES):
        table = read_table(folder / f"site-{at}.csv", manifest)
        sites.append(make_site(manifest, f"{at}", make_examples(manifest, table), 0))
    standard = reduce(add, [measure(manifest.features, site.train.x) for site in sites]).standard
    scaled = [
        replace(
            site,
            train=replace(site.train, x=apply_standard(manifest.features, site.train.x, standard)),
        )
        for site in sites
    ]
    learned = _learned(bundle, scaled)
    (folder / "learned.safetensors").write_bytes(write_params(learned))
    names = {name: name for name in CHANNELS}
    text = agent_toml(federation, nodes=names).replace("product_count", "shift")
    (folder / "agent.toml").write_text(text)
    state = folder / "state"
    state.mkdir()
    history = History(state / "history.db", CHANNELS, 10_000, 0.2)
    line = lines[0]
    values = np.column_stack([line.settings, line.conditions, line.energy, np.arange(len(line))])
    history.append(rows_of(values, np.arange(len(line)) * 28_800_000_000))
    history.close()
    models = Models(state / "models.db")
    adoption = Adoption(models, federation.trust, CHANNELS, "numpy")
    statistics = write_standard(standard)
    feed(adoption, federation.publish(1, version=3, train=learned, statistics=statistics))
    assert adoption.current is not None
    models.close()
    return folder


def _learned(bundle: Bundle, sites: list[Site]) -> Params:
    model = prepare(bundle, "numpy")
    return learn_together(model, bundle.weights, sites, seed=0, epochs=60, rounds=60)


def words(plant: Path) -> list[str]:
    others = [word for at in range(1, SITES) for word in ("--other", str(plant / f"site-{at}.csv"))]
    given = ["--bundle", str(plant / "process.jm"), "--rows", str(plant / "site-0.csv")]
    return ["recommend", str(RECIPE), *given, *others]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_give_a_table_with_bounds_effect_and_interval(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(plant), "--weights", str(plant / "learned.safetensors")]) == 0
    shown = capsys.readouterr().out
    for name in SETTINGS:
        assert name in shown
    assert "1100 to 1270  degC" in shown
    assert "intervals of 90 %, from 80 rows not learned from" in shown
    assert "nothing was written to any machine" in shown
    assert AGENT not in shown


def test_json_says_the_same_and_that_nothing_is_written(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--weights", str(plant / "learned.safetensors")]
    assert main([*words(plant), *weights, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"] is True
    assert found["written"] is False
    assert found["effect"]["high"] < 0
    for each, step in zip(found["settings"], (30.0, 0.3, 4.0), strict=True):
        assert each["lowest"] <= each["proposed"] <= each["highest"]
        assert abs(each["proposed"] - each["now"]) <= step + 1e-6


def test_weights_that_learned_nothing_recommend_nothing(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(plant)) == 1
    assert "NO RECOMMENDATION" in capsys.readouterr().out


def test_a_gateways_own_state_is_enough_and_is_left_as_it_was(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(plant / "state")
    assert main(["recommend", str(RECIPE), "--agent", str(plant / "agent.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "line-energy: version 3, served as global"
    assert found["row"] == "1970-05-14T00:00:00Z"  # the newest of 400 shifts
    now = generate(0, 400, seed=0).settings[-1]
    assert [each["now"] for each in found["settings"]] == pytest.approx(now.tolist())
    assert found["effect"]["high"] < 0
    assert found["members"] == 1
    assert digests(plant / "state") == before


def test_further_weights_change_the_intervals_and_the_first_one_predicts(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned, doubting = plant / "learned.safetensors", plant / "doubting.safetensors"
    params = read_safetensors(learned.read_bytes())
    moved = {name: np.multiply(value, 1.02, dtype=np.float32) for name, value in params.items()}
    doubting.write_bytes(write_params(moved))
    widths = []
    for weights in ([learned], [learned, doubting]):
        given = [word for path in weights for word in ("--weights", str(path))]
        main([*words(plant), *given, "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["members"] == len(weights)
        widths.append(found["after"]["high"] - found["after"]["low"])
        now = found["now"]["value"]
    assert widths[1] != widths[0]
    assert now == pytest.approx(found["now"]["value"])  # the first one's prediction counts


def test_a_candidate_in_the_model_slots_is_a_further_version(
    plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(plant / "state", tmp_path / "state")
    (tmp_path / "agent.toml").write_text((plant / "agent.toml").read_text())
    settings = read_agent_settings(tmp_path / "agent.toml")
    trust = read_enrolled(tmp_path / "agent.toml", settings.trust)[0]
    models = Models(tmp_path / "state" / "models.db")
    adoption = Adoption(models, trust, CHANNELS, "numpy")
    assert adoption.current is not None
    candidate = {name: 1.05 * value for name, value in adoption.current.serve.items()}
    weights = write_params({k: v.astype(np.float32) for k, v in candidate.items()})
    models.keep(sha256(weights), weights)
    models.close()
    arguments = ["recommend", str(RECIPE), "--agent", str(tmp_path / "agent.toml"), "--json"]
    main(arguments)
    assert json.loads(capsys.readouterr().out)["members"] == 2


def test_a_gateway_without_a_model_says_so(
    plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text((plant / "agent.toml").read_text())
    assert main(["recommend", str(RECIPE), "--agent", str(config)]) == 1
    assert "no model is in use yet" in capsys.readouterr().err


def test_a_recipe_for_another_model_is_refused_with_its_line(
    plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RECIPE.read_text()
    recipe = tmp_path / "recipe.toml"
    for old, new, expected in (
        ('label = "energy"', 'label = "yield"', "label: bundle line-energy: its label is 'energy'"),
        ('channel = "excess_air"', 'channel = "oxygen"', "has no channel 'oxygen'"),
        ("lowest = 0.8", "lowest = 8.0", "setpoint[1].highest: 2.8 is not above lowest"),
        ("coverage = 0.9", "coverage = 1.5", "coverage"),
        ("seed = 0", "write = true", "unknown key"),
    ):
        assert old in text
        recipe.write_text(text.replace(old, new))
        assert main(["recommend", str(recipe), *words(plant)[2:]]) == 2
        shown = capsys.readouterr().err
        assert expected in shown
        assert f"{recipe}:" in shown


def test_too_few_rows_for_the_coverage_are_said(
    plant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.read_text().replace("coverage = 0.9", "coverage = 0.99"))
    assert main(["recommend", str(recipe), *words(plant)[2:]]) == 1
    assert "80 labelled rows were not learned from" in capsys.readouterr().err
