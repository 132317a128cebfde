from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from ray import tune

from pipeline.configuration.overrides import with_fields
from pipeline.finetune import FinetuneTask
from pipeline.pretrain import PretrainTask, selection_key
from pipeline.search import Space, _ranked, _table, _Trial, finetune_study, schedule_study, search
from preprocessing.errors import RunError
from tune_spaces import SPACES, choices


def task_for(tiny, folder, **fields):
    config = with_fields(tiny.config, {name.replace("__", "."): value for name, value in fields.items()})
    return PretrainTask(config, tiny.cache, tiny.splits, {selection_key(config): tiny.scores}, str(folder))


def space_of(name):
    return Space(SPACES[name].space(), SPACES[name].mutations())


@pytest.mark.parametrize("name", SPACES)
def test_every_field_of_a_space_exists_and_takes_what_is_drawn(tiny, name):
    """A hundred draws, each a valid configuration."""
    for _ in range(100):
        with_fields(tiny.config, {path: domain.sample() for path, domain in SPACES[name].space().items()})
    for path, values in SPACES[name].mutations().items():
        for value in values:
            with_fields(tiny.config, {path: value})


def test_choices_are_all_combinations_under_a_prefix():
    space = {
        "a.x": tune.choice([1, 2]),
        "a.y": tune.choice(["p", "q"]),
        "b.z": tune.choice([0]),
        "a.w": tune.uniform(0, 1),
    }
    assert list(choices(space, "a.")) == [
        {"a.x": 1, "a.y": "p"},
        {"a.x": 1, "a.y": "q"},
        {"a.x": 2, "a.y": "p"},
        {"a.x": 2, "a.y": "q"},
    ]
    assert list(choices({}, "a.")) == [{}]


def test_equal_trials_are_ranked_by_name_in_whatever_order_they_come():
    trials = [_Trial(f"search_{n:05}", "search", 0, dsc, 8, {}) for n, dsc in enumerate((0.2, 0.4, 0.4, 0.1, 0.4))]
    wanted = ["search_00001", "search_00002", "search_00004", "search_00000", "search_00003"]
    for order in permutations(trials):
        assert [trial.name for trial in _ranked(order)] == wanted
    assert _table(trials[::-1])["trial"].tolist() == wanted


def test_a_trial_that_was_stopped_early_ranks_below_those_that_beat_it():
    """Its DSC is of its first epochs, where the probe may well be higher."""
    trials = [_Trial(name, "search", 0, dsc, epochs, {}) for name, dsc, epochs in (("a", 0.33, 4), ("b", 0.3, 12))]
    assert [trial.name for trial in _ranked(trials)] == ["b", "a"]


def test_the_best_schedule_wins_and_an_interrupted_search_is_resumed(tiny, tmp_path, ray_session):
    space = Space({"mask.ratio.start": tune.uniform(0.4, 0.9)}, {})
    task = task_for(tiny, tmp_path, search__trials=3, search__repeats=1, search__grace=2)
    study = schedule_study(task.config.search)
    choice = search(task, study, space)
    finals = choice.table[choice.table["stage"] == "finalists"]
    searched = choice.table[choice.table["stage"] == "search"]
    assert len(searched) == 3
    assert len(finals) == 2
    assert set(finals["seed"]) == {1000}
    assert choice.fields["mask.ratio.start"] == finals.sort_values("dsc")["mask.ratio.start"].iloc[-1]
    assert set(finals["mask.ratio.start"]) == set(searched.sort_values("dsc")["mask.ratio.start"].iloc[-2:])
    again = search(task, study, space)  # as after a kill: what stands is not trained again
    pd.testing.assert_frame_equal(
        again.table.sort_values("trial", ignore_index=True), choice.table.sort_values("trial", ignore_index=True)
    )


def fails_above(task, session):
    """A training that looks best where it fails."""
    start = task.config.mask.ratio.start
    session.report({"epoch": 1, "probe_dsc": start})
    if start > 0.6:
        raise RunError("out of luck")


def test_a_trial_that_failed_is_left_out_and_told(tiny, tmp_path, ray_session, capfd):
    fields = {"search__trials": 6, "search__repeats": 0, "mask__ratio__start": 0.5, "resources__max_failures": 0}
    task = task_for(tiny, tmp_path, **fields)
    study = replace(schedule_study(task.config.search), loop=fails_above)
    choice = search(task, study, Space({"mask.ratio.start": tune.choice([0.55, 0.7])}, {}))
    assert (choice.fields["mask.ratio.start"], choice.dsc) == (0.55, 0.55)
    assert set(choice.table["mask.ratio.start"]) == {0.5, 0.55}
    told = capfd.readouterr().out
    failed = 6 - len(choice.table)
    assert 0 < failed < 5
    assert f"search: {failed} trial(s) came to no result and are left out: search_" in told
    assert "out of luck" in told


def stops_once(task, session):
    """A training whose machine goes after half of its epochs, unless it begins from a checkpoint."""
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "begun").open("a") as file:
        file.write("." if session.latest() is None else "c")
    if session.latest() is None:
        session.report({"epoch": 1, "probe_dsc": 0.1}, lambda checkpoint: (checkpoint / "half").touch())
        if task.config.mask.ratio.start > 0.6:
            raise RunError("the machine is gone")
    session.report({"epoch": 2, "probe_dsc": task.config.mask.ratio.start}, lambda checkpoint: None)


def test_a_search_that_broke_off_goes_on_with_its_checkpoints_and_trains_nothing_twice(tiny, tmp_path, ray_session):
    fields = {"search__trials": 4, "search__repeats": 0, "mask__ratio__start": 0.5, "resources__max_failures": 0}
    task = task_for(tiny, tmp_path, **fields)
    study = replace(schedule_study(task.config.search), loop=stops_once)
    space = Space({"mask.ratio.start": tune.choice([0.55, 0.7])}, {})
    before = search(task, study, space)
    assert 0 < len(before.table) < 4
    after = search(task, study, space)
    assert (len(after.table), after.dsc) == (4, 0.7)
    for trial, start in after.table[["trial", "mask.ratio.start"]].itertuples(index=False):
        assert (tmp_path / "trials" / trial / "begun").read_text() == (".c" if start > 0.6 else ".")


def test_finalists_keep_their_own_figures_though_a_failed_trial_overtakes_them(tiny, tmp_path, ray_session):
    """What trial came to no result at first may be among the best when the search goes on."""
    fields = {"search__trials": 4, "search__finalists": 4, "search__repeats": 1, "mask__ratio__start": 0.5}
    task = task_for(tiny, tmp_path, **fields, resources__max_failures=0)
    study = replace(schedule_study(task.config.search), loop=stops_once)
    space = Space({"mask.ratio.start": tune.uniform(0.4, 0.9)}, {})
    chosen = []
    for _ in range(3):  # above 0.6 a trial fails at first, and then once more as a finalist
        choice = search(task, study, space)
        assert choice.fields["mask.ratio.start"] == choice.dsc
        chosen.append(choice.dsc)
    assert chosen[0] == chosen[1] <= 0.6 < chosen[2] == choice.table["mask.ratio.start"].max()
    assert (choice.table["mask.ratio.start"] <= 0.6).sum() >= 4  # two of them, each twice


def test_a_trial_for_which_there_is_no_room_is_refused(tiny, tmp_path, ray_session):
    task = task_for(tiny, tmp_path, search__cpus_per_trial=4096)
    with pytest.raises(RunError, match=r"4096 core\(s\) and 0 GPU\(s\) will never fit: .*search\.cpus_per_trial"):
        search(task, schedule_study(task.config.search), Space({}, {}))


def test_a_population_needs_two_epochs(tiny):
    with pytest.raises(ValueError, match="at least 2 with scheduler pbt"):
        task_for(tiny, ".", search__scheduler="pbt", search__epochs=1, search__grace=1, search__probe_every=1)


@pytest.mark.slow
def test_a_population_discovers_a_schedule_that_can_be_replayed(tiny, tmp_path, ray_session):
    task = task_for(
        tiny, tmp_path, search__scheduler="pbt", search__epochs=4, search__grace=1, search__trials=2, search__repeats=0
    )
    choice = search(task, schedule_study(task.config.search), space_of("mask_schedule"))
    points = choice.fields["mask.ratio.points"]
    assert [place for place, _ in points] == sorted(place for place, _ in points)
    assert len(points) == 4
    replayed = with_fields(task.config, choice.fields)
    assert replayed.mask.ratio.family == "piecewise"
    assert replayed.mask.strength.family == "piecewise"


def test_the_settings_of_fine_tuning_are_searched_by_the_validation_dsc(tiny, tmp_path, ray_session):
    config = with_fields(tiny.config, {"search.trials": 2, "search.repeats": 0})
    task = FinetuneTask(config, tiny.cache, tiny.splits, None, str(tmp_path))
    choice = search(task, finetune_study(config.finetune), space_of("finetune"))
    assert choice.fields.keys() == SPACES["finetune"].space().keys()
    assert choice.table["dsc"].is_monotonic_decreasing
