"""The agent of a run, loaded and exported: it answers as the run did, in every space, and in a new process."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import pytest
from huggingface_hub import ModelCard

import lam_jax
from lam_jax.agents.atlas import AtlasSettings
from lam_jax.agents.export import export
from lam_jax.agents.load import find
from lam_jax.agents.push import push
from lam_jax.agents.settings import AgentError
from lam_jax.cli import main
from lam_jax.errors import DamagedCheckpointError
from lam_jax.formats.load_backbone import load_backbone
from lam_jax.parallel import TRAIN, make_mesh
from lam_jax.pipeline import fine_tune, learn_actions, open_run, reinforce
from lam_jax.pipeline.measures import SCORES, Evaluator
from lam_jax.pipeline.phases import trained_by
from lam_jax.report.run_files import RunFilesError
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.runs.record import read_record
from lam_jax.train.spaces import SPACES
from tests.agents.made_run import make_run, recipe_of, stopped, with_config
from tests.cli.test_cli import call
from tests.end_to_end.own_files import value

STAGES = ("stage1_inverse", "stage2_projector", "stage3_joint", "stage4_cloning")
SPACE_NAMES = ("latent", "hybrid", "token")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    yield from make_run(tmp_path_factory.mktemp("agents"), "agents_score", "--space", *SPACE_NAMES)


@pytest.fixture(scope="module")
def answered(run):
    """By space: test rows, the run's own answers to them as the pipeline gives them, and its agent."""
    recipe, found = recipe_of(run), {}
    with open_run(recipe, run) as (opened, resources):
        task = recipe.tasks[0]
        examples = resources.examples(task.name, "test")
        learned = learn_actions(opened, resources, resources.base_agent())
        for space in (SPACES[name] for name in SPACE_NAMES):
            tuned = fine_tune(opened, resources, task, space, learned)
            agent, _ = reinforce(opened, resources, task, space, tuned)
            config = resources.rollout_config(task, 2, recipe.evaluation.answers[0].sampling[space.name])
            evaluator = Evaluator(resources, task, space)
            answers = evaluator.answers(agent, examples, config, SCORES, recipe.evaluation.batch)
            found[space.name] = examples, answers, agent
    return found


@pytest.fixture(scope="module")
def exported(run) -> dict[str, Path]:
    """An exported folder of each space."""
    folders = {space: run.parent / f"{space}_agent" for space in SPACE_NAMES}
    for space, folder in folders.items():
        assert main(["export", str(run), str(folder), "--space", space]) == 0
    return folders


def tokens(answered) -> list[list[list[int]]]:
    return [[answer.tokens for answer in item.answers] for item in answered]


def generate(agent, examples, recipe):
    """With the keys of the run's scores."""
    key = jax.random.fold_in(jax.random.key(recipe.seed), SCORES)
    return agent.generate(examples, samples=2, seed=key, batch=recipe.evaluation.batch)


@pytest.mark.parametrize("space", SPACE_NAMES)
@pytest.mark.parametrize("kind", ["run", "exported"])
def test_a_loaded_agent_gives_the_tokens_of_the_run(run, answered, exported, space, kind):
    agent = lam_jax.load(run, space=space) if kind == "run" else lam_jax.load(exported[space])
    examples, expected, _ = answered[space]
    found = generate(agent, examples, recipe_of(run))
    assert tokens(found) == tokens(expected)
    assert [[a.actions for a in x.answers] for x in found] == [[a.actions for a in x.answers] for x in expected]
    assert (agent.phase, agent.task, agent.space) == (f"rl_{space}_own", "own", space)


@pytest.mark.parametrize("space", SPACE_NAMES)
def test_they_are_the_answers_in_the_report(run, answered, space):
    record = read_record(run / "phases" / f"scores_rl_{space}_own")["metadata"]["record"]
    shown = record["answers"]["id"]
    found = generate(lam_jax.load(run, space=space), answered[space][0], recipe_of(run))
    assert [a["text"] for a in shown] == [x.answers[0].text for x in found]


def test_sampling_lengths_and_pictures_are_those_of_the_recipe(run, exported):
    recipe = recipe_of(run)
    for agent in (lam_jax.load(run, space="latent"), lam_jax.load(exported["latent"])):
        settings, task = agent.settings, recipe.tasks[0]
        assert settings.sampling == recipe.evaluation.answers[0].sampling["latent"]
        assert (settings.prompt_lengths, settings.answer_length) == (task.prompt_lengths, task.answer_length)
        assert (settings.image, settings.method) == (recipe.image, recipe.method)


PROGRAM = """
import json, sys
import lam_jax

agent = lam_jax.load(sys.argv[1])
rows = [lam_jax.Example("q", ({"role": "user", "content": "What colour is it?"},), (open(sys.argv[2], "rb").read(),))]
answer = agent.generate(rows, seed=3)[0].answers[0]
assert agent.answer("What colour is it?", sys.argv[2], seed=3) == answer.text
print(json.dumps(answer.tokens))
"""


def test_a_new_process_answers_the_same_without_the_files_of_the_run(run, tmp_path):
    """Neither rows nor reward are there any more."""
    moved = with_config(run, tmp_path / "run", lambda config: config["recipe"].update(spaces=["latent"]))
    picture = shutil.copyfile(run.parent / "1.png", tmp_path / "picture.png")
    text = (moved / "config.json").read_text().replace(str(run.parent), "/nowhere")
    (moved / "config.json").write_text(text)
    root = str(Path(lam_jax.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(moved), str(picture)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    example = lam_jax.Example("q", ({"role": "user", "content": "What colour is it?"},), (picture,))
    here = lam_jax.load(run, space="latent").generate([example], seed=3)[0].answers[0]
    assert json.loads(done.stdout) == here.tokens


@pytest.mark.parametrize("space", SPACE_NAMES)
def test_every_weight_is_that_of_the_run(run, answered, space):
    """Of a token agent the latent modules are left out: nothing asks for them."""
    found, expected = find(run, space=space).masters(make_mesh()), answered[space][2]
    if space == "token":
        found, expected = found.backbone, expected.backbone
    chex.assert_trees_all_equal(found, expected)


def test_an_exported_token_agent_is_the_backbone_of_the_run(answered, exported):
    chex.assert_trees_all_equal(
        load_backbone(exported["token"], make_mesh(), TRAIN).blocks, answered["token"][2].backbone.blocks
    )


def test_what_is_in_an_exported_folder(run, exported):
    def names(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    ours, both = {"lam_jax.json", "weights.safetensors"}, {"agent.json", "README.md"}
    in_files = {*tokenizer, "config.json", "preprocessor_config.json"}
    assert names(exported["latent"]) == ours | both | {f"files/{name}" for name in in_files}
    assert names(exported["token"]) == both | in_files | {"model.safetensors", "generation_config.json"}
    for folder in exported.values():
        for name in names(folder) - {"model.safetensors", "weights.safetensors"}:
            assert str(run.parent) not in (folder / name).read_text(), f"{name} names a folder of this machine"
    height, width = recipe_of(run).image.size
    values = json.loads((exported["token"] / "preprocessor_config.json").read_text())
    assert values["min_pixels"] == values["max_pixels"] == height * width
    values = json.loads((exported["token"] / "generation_config.json").read_text())
    assert (values["do_sample"], values["temperature"], values["top_k"], values["top_p"]) == (True, 1.0, 0, 1.0)
    assert values["max_new_tokens"] == 32


@pytest.mark.parametrize("space", SPACE_NAMES)
def test_the_model_card_has_data_recipe_scores_and_limits(run, exported, space):
    card = ModelCard.load(exported[space] / "README.md")
    results = json.loads((run / "results.json").read_text())
    rows = [r for r in results["scores"] if r["space"] == space]
    assert len(rows) == 2
    for row in rows:
        assert f"| {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | 3 x 2 |".replace("-", "−") in card.text
    gain = next(g for g in results["gain"] if g["space"] == space)
    for part in (
        *("JsonRows (file task.jsonl)", "FileReward (file agents_score.py, function score)", "`own (quick)`, seed 0"),
        *("| 5 SFT | 3 steps of 4 rows", "| 6 RL | grpo, 2 rollouts of 2 prompts x 4 samples", "## Limits"),
        f"On {gain['prompts']} fixed training prompts RL changed the mean reward from {gain['before']:.3f}",
        f"`rl_{space}_own`",
    ):
        assert part in card.text, part
    assert ("| 1 inverse dynamics |" in card.text) == ("codes" in card.text) == (space != "token")
    assert ("AutoModelForImageTextToText" in card.text) == (space == "token")
    assert card.data.library_name == ("lam_jax" if space != "token" else "transformers")
    assert card.data.eval_results[0].metric_value == pytest.approx(rows[1]["mean"], abs=1e-4)


def test_an_export_needs_its_own_folder_a_space_and_weights_that_were_kept(run, exported, capsys):
    code, _, err = call(["export", str(run), str(exported["token"]), "--space", "token"], capsys)
    assert (code, "exists already: remove it or choose another" in err) == (1, True)
    target = run.parent / "refused"
    for flags, message in (
        ([], "has several spaces: name one of ['latent', 'hybrid', 'token'], as --space or space=."),
        (["--space", "token", "--task", "help"], "found no task 'help', expected one of ['own']"),
        (["--space", "token", "--weights", "best"], "kept only the last weights of rl_token_own, not the best: set"),
    ):
        code, _, err = call(["export", str(run), str(target), *flags], capsys)
        assert (code, message in err) == (2, True), err
    code, _, err = call(["export", str(exported["token"]), str(target)], capsys)
    assert (code, "is no run but an agent or a checkpoint already" in err) == (2, True)
    assert call(["export", str(run), str(target), "--public"], capsys)[0] == 2
    assert not target.exists()


def test_the_best_weights_are_exported_where_the_run_kept_them(run, tmp_path):
    best = with_config(run, tmp_path / "best", lambda config: config["recipe"]["rl"].update(weights="best"))
    assert export(best, tmp_path / "agent", space="token", weights="best").provenance["weights"] == "best"
    with pytest.raises(AgentError, match="kept only the best weights of rl_token_own, not the last"):
        export(best, tmp_path / "other", space="token", weights="last")


def test_weights_may_be_smaller_than_they_were_trained(run, exported, tmp_path):
    assert export(run, tmp_path / "half", space="token", dtype="bfloat16").phase == "rl_token_own"
    folders = tmp_path / "half", run.parent / "token_agent"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[0] < 0.51 * sizes[1]
    assert isinstance(lam_jax.load(tmp_path / "half").answer("What colour is it?"), str)


def test_an_unfinished_run_has_the_agent_of_its_last_complete_phase(run, tmp_path):
    sft = stopped(run, tmp_path / "sft", *STAGES, "sft_latent_own", results=True)
    settings = export(sft, tmp_path / "agent", space="latent")
    assert settings.phase == "sft_latent_own"
    card = (tmp_path / "agent" / "README.md").read_text()
    assert "the run had not come further when it was exported" in card
    assert "| SFT | " in card
    assert "| RL | " not in card
    assert "6 RL" not in card
    learned = stopped(run, tmp_path / "learned", *STAGES)
    assert lam_jax.load(learned, space="token").phase == "stage4_cloning"
    assert export(learned, tmp_path / "early", space="latent").phase == "stage4_cloning"
    assert "None: the run had no results yet" in (tmp_path / "early" / "README.md").read_text()
    one = lam_jax.load(stopped(run, tmp_path / "one", STAGES[0]), space="latent")
    assert one.phase == "stage1_inverse"


def test_runs_that_have_no_agent_say_why(run, tmp_path):
    with pytest.raises(AgentError, match="has not completed stage1_inverse yet"):
        lam_jax.load(stopped(run, tmp_path / "new"), space="latent")
    gap = stopped(run, tmp_path / "gap", *STAGES[:2], STAGES[3], "sft_latent_own")
    with pytest.raises(DamagedCheckpointError, match="stage3_joint is missing, but sft_latent_own, which comes after"):
        lam_jax.load(gap, space="latent")
    other = with_config(run, tmp_path / "other", lambda c: c["content"]["model"].update({"model.safetensors": "0"}))
    with pytest.raises(AgentError, match=r"not the one that the run began with: model\.safetensors differ"):
        lam_jax.load(other, space="token")
    gone = with_config(run, tmp_path / "gone", lambda c: c["recipe"]["model"].update(folder="nowhere/qwen"))
    with pytest.raises(AgentError, match=r"began with the model in nowhere/qwen, which is not there.*relative"):
        lam_jax.load(gone, space="token")
    foreign = with_config(run, tmp_path / "foreign", lambda c: c.pop("recipe"))
    with pytest.raises(AgentError, match="not the configuration of a run of a recipe"):
        lam_jax.load(foreign)
    broken = stopped(run, tmp_path / "broken", *STAGES, "sft_token_own")
    (broken / "results.json").write_text("{")
    with pytest.raises(RunFilesError, match=r"results.json"):
        export(broken, tmp_path / "agent", space="token")
    assert not (tmp_path / "agent").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_the_list_of_phases_is_what_a_run_trains(run):
    listed = {phase for space in SPACES.values() for phase in trained_by("own", space, recipe_of(run).method)}
    there = {path.name for path in (run / "phases").iterdir() if read_record(path)["arrays"]}
    assert there == listed


def test_convert_sends_a_run_to_export_and_takes_what_it_wrote(run, exported, tmp_path, capsys):
    code, _, err = call(["convert", str(run), str(tmp_path / "x")], capsys)
    assert code == 1
    assert "the configuration of a run, expected that of a model. `lam-jax export RUN FOLDER`" in err
    assert main(["convert", str(exported["latent"]), str(tmp_path / "backbone")]) == 0
    plain = lam_jax.load(tmp_path / "backbone")
    assert plain.settings.image.max_pixels == plain.settings.image.min_pixels == 84 * 112
    assert main(["convert", str(exported["latent"]), str(tmp_path / "state.safetensors")]) == 0


def test_an_export_is_pushed_and_stays_when_that_fails(run, tmp_path, monkeypatch, capsys):
    calls = []

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, name, **options):
            calls.append((name, options))
            return type("Url", (str,), {"repo_id": name})(f"https://hub/{name}")

        def upload_folder(self, **options):
            calls.append(options)
            if options["repo_id"] == "me/full":
                raise RuntimeError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    args = ["export", str(run), str(tmp_path / "agent"), "--space", "token", "--push", "me/agent"]
    code, out, _ = call(args, capsys)
    assert (code, "https://hub/me/agent" in out) == (0, True)
    assert calls[0] == ("me/agent", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == tmp_path / "agent"
    push(tmp_path / "agent", "me/public", public=True)
    assert calls[2] == ("me/public", {"private": False, "exist_ok": True})
    with pytest.raises(AgentError, match=r"complete but could not be pushed to 'me/full' \(RuntimeError: 403 Forb"):
        push(tmp_path / "agent", "me/full")


def test_an_evaluation_of_a_run_is_of_its_own_tests_and_in_its_report(run, capsys):
    """Greedy, so that the answers are known: those of the loaded agent."""
    flags = ["--temperature", "0", "--samples", "2", "--diversity-samples", "0"]
    code, out, err = call(["evaluate", str(run), *flags], capsys)
    assert code == 0, err
    result = json.loads((run / "evaluations/tests/evaluation.json").read_text())
    recipe = recipe_of(run)
    task = recipe.tasks[0]
    rows = task.rows.read(run / "data", "test")
    named = [(e["agent"], e["set"], e["title"], e["phase"]) for e in result["scores"]]
    assert named == [(f"run/own/{s}", "id", task.tests["id"].title, f"rl_{s}_own") for s in SPACE_NAMES]
    for entry in result["scores"]:
        lines = (run / "evaluations/tests" / entry["folder"] / "answers.jsonl").read_text().splitlines()
        answers = [json.loads(line) for line in lines]
        assert [line["id"] for line in answers] == [row.id for row in rows]
        greedy = lam_jax.load(run, space=entry["space"]).generate(rows, sampling=SamplingConfig(temperature=0.0))
        texts = [item.answers[0].text for item in greedy]
        assert [[a["text"] for a in line["answers"]] for line in answers] == [[text, text] for text in texts]
        expected = [value(text) for text in texts]
        assert entry["score"]["mean"] == pytest.approx(sum(expected) / len(expected))
        assert (entry["reward"], entry["score"]["std"]) == ("score", pytest.approx(0))
    pairs = result["comparisons"]
    assert [(p["first"], p["second"]) for p in pairs] == [
        (f"run/own/{first}", f"run/own/{second}") for first, second in itertools.combinations(SPACE_NAMES, 2)
    ]
    page = (run / "report.html").read_text()
    assert 'id="evaluations"' in page
    numbers = [number for pair in pairs for number in (pair["difference"]["mean"], pair["p_value"])]
    for number in (result["scores"][0]["score"]["mean"], *numbers):
        assert f'<data value="{number}">' in page
    assert "report.html" in out


def test_a_run_whose_rows_have_changed_is_not_evaluated_on_them(run, tmp_path, capsys):
    def change(values):
        values["content"]["rows"][-1] = "another"

    other = with_config(run, tmp_path / "changed", change)
    code, _, err = call(["evaluate", str(other)], capsys)
    assert (code, "the rows of task own are not those that the run was made on" in err) == (2, True), err
    early = stopped(run, tmp_path / "early", *STAGES)
    code, _, err = call(["evaluate", str(early)], capsys)
    assert (code, "is not fine-tuned in the latent space yet" in err) == (2, True), err


def test_an_atlas_before_rl_and_after(run, tmp_path):
    """What it says of the phase before RL is what that phase's own atlas says."""
    settings = AtlasSettings(rows=4, prompts=2, samples=1, forced=0, positions=8)
    early = stopped(run, tmp_path / "early", *STAGES, "sft_latent_own")
    before = lam_jax.code_atlas(early, out=tmp_path / "early.html", settings=settings)
    assert (before["rl"], before["agent"]["phase"]) == (None, "sft_latent_own")
    assert "has not completed RL" in (tmp_path / "early.html").read_text()
    after = lam_jax.code_atlas(run, out=tmp_path / "late.html", settings=settings)
    rl = after["rl"]
    assert (rl["before"], rl["after"]) == ("sft_latent_own", "rl_latent_own")
    assert rl["usage_before"] == pytest.approx([code["policy_share"] for code in before["per_code"]])
    assert rl["usage_after"] == pytest.approx([code["policy_share"] for code in after["per_code"]])
    assert sum(rl["own_usage_before"]) == pytest.approx(1)
    assert {(g["kind"], g["name"]) for g in after["groups"]} >= {("task", "own"), ("corpus", "pre-training, text-only")}
