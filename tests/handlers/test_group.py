import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from ignite.engine.engine import State

import custom.handlers
from custom.errors import DataError
from custom.handlers.group import HandlerGroup


class Handler:
    def attach(self, engine):
        engine.append(self)


class TestHandlerGroup:
    @pytest.mark.parametrize("change", [None, True])
    def test_attaches_in_order(self, change):
        first, second, engine = Handler(), Handler(), []
        changes = {} if change is None else {"second": change, "first": change}
        HandlerGroup({"first": first, "none": None, "second": second}, changes).attach(engine)
        assert engine == [first, second]

    @pytest.mark.parametrize("change", [None, False])
    def test_switches_off(self, change):
        first, second, engine = Handler(), Handler(), []
        HandlerGroup({"first": first, "second": second}, {"first": change}).attach(engine)
        assert engine == [second]

    def test_replaces_in_place(self):
        first, second, engine = Handler(), Handler(), []
        other = Handler()
        HandlerGroup({"first": first, "second": second}, {"first": other}).attach(engine)
        assert engine == [other, second]

    def test_refuses_an_unknown_name(self):
        with pytest.raises(DataError, match="tensorbord: found no such handler of HandlerGroup, expected tensorboard"):
            HandlerGroup({"tensorboard": Handler()}, {"tensorbord": False})

    @pytest.mark.parametrize("value", ["yes", 1, {"tag": "a"}])
    def test_refuses_what_is_no_handler(self, value):
        with pytest.raises(DataError, match=r"tensorboard: found .*, expected True, False or a handler"):
            HandlerGroup({"tensorboard": Handler()}, {"tensorboard": value})


@pytest.mark.parametrize("name", ["StepHandlers", "RunHandlers", "EvaluationHandlers"])
def test_handlers_have_names_that_are_free(name):
    group = getattr(custom.handlers, name)
    table = [line.split()[0] for line in group.__doc__.splitlines() if line.strip()]
    rules = [number for number, word in enumerate(table) if set(word) == {"="}]
    names = table[rules[0] + 1 : rules[1]]
    assert names
    # The loader is an argument because it is a handler itself.
    assert set(names) & set(inspect.signature(group).parameters) <= {"loader"}


@pytest.fixture
def options(tmp_path):
    """What ``RunHandlers`` needs."""
    network = torch.nn.Linear(1, 1)
    return {
        **dict.fromkeys(("model_dir", "results_dir", "output_dir"), str(tmp_path)),
        "evaluator": SimpleNamespace(network=network),
        "datasets": [SimpleNamespace(data=[], volumes=[])] * 2,
        "objects": {"optimizer": torch.optim.SGD(network.parameters())},
    }


def test_resuming_needs_checkpoints(options):
    assert "checkpoints" not in custom.handlers.RunHandlers(**options, checkpoints=False).handlers
    with pytest.raises(DataError, match="resume: found True, with the handler checkpoints switched off"):
        custom.handlers.RunHandlers(**options, checkpoints=False, resume=True)


@pytest.mark.parametrize(("best_epoch", "warned"), [(-1, True), (1, False), (3, False)])
def test_a_run_without_a_score_says_that_there_are_no_best_weights(options, caplog, best_epoch, warned):
    engine = Engine(lambda *_: None)
    off = dict.fromkeys(("history", "tensorboard", "final_weights", "budget", "checkpoints", "record"), False)
    options["evaluator"].state = State(best_metric_epoch=best_epoch)
    custom.handlers.RunHandlers(**options, **off).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0], max_epochs=3)
    text = "no validation gave a score: only the last weights are saved, in model_final.pt"
    assert [line for line in caplog.messages if "validation" in line] == ([text] if warned else [])


@pytest.mark.parametrize("saved", [True, False])
def test_only_a_run_with_checkpoints_can_be_continued(options, capsys, saved):
    engine = Engine(lambda *_: None)
    off = dict.fromkeys(("history", "tensorboard", "final_weights", "record"), False)
    options["evaluator"] = Engine(lambda *_: None)
    options["evaluator"].network = torch.nn.Linear(1, 1)
    options["evaluator"].state = State(best_metric=-1, best_metric_epoch=-1)
    custom.handlers.RunHandlers(**options, **off, checkpoints=saved, budget_hours=1e-6).attach(engine)
    engine.run([0], max_epochs=2)
    printed = capsys.readouterr().out
    assert printed.startswith("Stopped by the budget of 1e-06 h after 0 of 2 steps. ")
    assert ("This continues the run:" in printed) == saved
    assert ("It cannot be continued: checkpoints are switched off." in printed) == (not saved)
