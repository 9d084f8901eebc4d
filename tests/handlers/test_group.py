import inspect
from types import SimpleNamespace

import pytest
import torch

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


def test_resuming_needs_checkpoints(tmp_path):
    network = torch.nn.Linear(1, 1)
    options = {
        **dict.fromkeys(("model_dir", "results_dir", "output_dir"), str(tmp_path)),
        "evaluator": SimpleNamespace(network=network),
        "datasets": [SimpleNamespace(data=[], volumes=[])] * 2,
        "objects": {"optimizer": torch.optim.SGD(network.parameters())},
    }
    assert "checkpoints" not in custom.handlers.RunHandlers(**options, checkpoints=False).handlers
    with pytest.raises(DataError, match="resume: found True, with the handler checkpoints switched off"):
        custom.handlers.RunHandlers(**options, checkpoints=False, resume=True)
