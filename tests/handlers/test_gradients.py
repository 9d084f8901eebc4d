"""Clipping against a hand-written loop, and runs that must stop."""

import copy
import json
import math

import pytest
import torch
from ignite.engine import Events

from custom.errors import DataError
from custom.handlers import EMA, GradientGuard


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def adam(model):
    """Moves by momentum and weight decay also when the gradient is zero."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def guarded(make_trainer, folder, model, batches, *, kind=adam, max_norm=None, patience=3, handlers=(), **options):
    optimizer = kind(model)
    guard = GradientGuard(
        optimizer=optimizer, network=model, output_dir=str(folder), max_norm=max_norm, patience=patience
    )
    return make_trainer(model, batches, [guard, *handlers], optimizer=optimizer, **options)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 10])
def test_clips_as_a_loop_written_by_hand(make_trainer, batches, tmp_path, accumulation):
    """Seven batches: the last group is short for 2 and 3."""
    trained, expected = network(), network()
    options = {"kind": sgd, "max_norm": 0.5, "epochs": 2, "accumulation_steps": accumulation}
    trainer = guarded(make_trainer, tmp_path, trained, batches, **options)
    trainer.run()

    optimizer = sgd(expected)
    clipped = 0
    for _ in range(2):
        for start in range(0, len(batches), accumulation):
            optimizer.zero_grad()
            for batch in batches[start : start + accumulation]:
                # MONAI divides by the full number of accumulation steps, also in the short group
                (torch.nn.functional.mse_loss(expected(batch["image"]), batch["label"]) / accumulation).backward()
            norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).double().square().sum().sqrt().item()
            if norm > 0.5:
                clipped += 1
                for parameter in expected.parameters():
                    parameter.grad *= 0.5 / norm
            optimizer.step()
    assert clipped >= 1
    assert trainer.state.gradient_norm == pytest.approx(norm, rel=1e-5)
    for found, value in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def spoil(batches, at, value=float("nan")):
    """A label that is not finite: the loss is not, while the image is."""
    batches = copy.deepcopy(batches)
    for n in at:
        batches[n]["label"][0] = value
    return batches


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_is_as_if_it_had_not_been(make_trainer, batches, tmp_path, value):
    trained, expected = network(), network()
    trainer = guarded(make_trainer, tmp_path, trained, spoil(batches, [3], value))
    ema = EMA(network=trained, optimizer=trainer.optimizer)
    trainer.run()
    assert all(torch.isfinite(value).all() for value in ema.network.state_dict().values())
    guarded(make_trainer, tmp_path, expected, batches[:3] + batches[4:]).run()
    for key, value in trained.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key
    assert not (tmp_path / "non_finite.json").exists()


def test_a_bad_micro_batch_spoils_its_step_only(make_trainer, batches, tmp_path):
    trained, expected = network(), network()
    guarded(make_trainer, tmp_path, trained, spoil(batches, [3]), accumulation_steps=2).run()
    guarded(make_trainer, tmp_path, expected, batches[:2] + batches[4:], accumulation_steps=2).run()
    for key, value in trained.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key


def test_a_gradient_alone_that_is_not_finite(make_trainer, batches, tmp_path):
    """The square root of 0 has a finite value and an infinite slope."""
    trained = network()
    before = copy.deepcopy(trained.state_dict())
    trainer = guarded(
        make_trainer, tmp_path, trained, batches, patience=2, loss=lambda pred, _: (pred * 0).sum().sqrt()
    )
    with pytest.raises(DataError, match=r"^case0, case1, case2, case3: found a loss or gradient in 2 steps in a row"):
        trainer.run()
    for key, value in trained.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_stops_after_some_in_a_row_and_names_them(make_trainer, batches, tmp_path):
    trained = network()
    trainer = guarded(make_trainer, tmp_path, trained, spoil(batches, [0, 1, 3, 4, 5]), patience=3)
    with pytest.raises(DataError) as stop:
        trainer.run()
    assert str(stop.value).startswith("case6, case7, case8, case9, case10, case11: found a loss or gradient in 3 steps")
    assert "\n" not in str(stop.value)
    assert trainer.state.iteration == 6
    record = json.loads((tmp_path / "non_finite.json").read_text())
    assert [batch["iteration"] for step in record for batch in step] == [4, 5, 6]
    assert record[0][0]["id"] == ["case6", "case7"] and record[0][0]["loss"] == "nan"
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


def test_a_voxel_that_is_not_finite_stops_at_once_and_names_its_case(make_trainer, batches, tmp_path):
    batches[4]["image"][1, 2] = float("nan")
    batches[4]["position"] = torch.tensor([[1, 2, 3], [4, 5, 6]])
    trained = network()
    with pytest.raises(DataError, match=r"^case9: found voxels that are not finite"):
        guarded(make_trainer, tmp_path, trained, batches, accumulation_steps=3).run()
    assert json.loads((tmp_path / "non_finite.json").read_text()) == [
        [{"iteration": 5, "loss": "nan", "not_finite_in_image": True, "id": ["case9"], "position": [[4, 5, 6]]}]
    ]
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


class Scaler(torch.amp.GradScaler):
    """A scaler for the CPU, as MONAI has one for CUDA."""

    def __init__(self, **options):
        super().__init__("cpu", **options)


def test_clips_after_the_scale_is_taken_out(make_trainer, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: Scaler(init_scale=1024.0))
    scaled, plain = network(), network()
    options = {"kind": sgd, "max_norm": 0.5, "accumulation_steps": 2}
    guarded(make_trainer, tmp_path, scaled, batches, amp=True, amp_kwargs={"enabled": False}, **options).run()
    guarded(make_trainer, tmp_path, plain, batches, **options).run()
    for found, value in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_the_scalers_search_is_no_fault(make_trainer, batches, tmp_path, monkeypatch):
    """A scale with which gradients overflow float32 at first: left out by the scaler, none counted."""
    scaler = Scaler(init_scale=2.0**127)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)
    trained = network()
    optimizer_steps, norms = [], []
    trainer = guarded(
        *(make_trainer, tmp_path, trained, batches),
        patience=1,
        loss=lambda pred, label: 2 * torch.nn.functional.mse_loss(pred, label),
        amp=True,
        amp_kwargs={"enabled": False},
    )
    trainer.optimizer.register_step_post_hook(lambda *_: optimizer_steps.append(trainer.state.iteration))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: norms.append(engine.state.gradient_norm))
    before = copy.deepcopy(trained[0].weight)
    trainer.run()
    assert 2 <= len(optimizer_steps) <= 5
    assert optimizer_steps == [n for n, norm in enumerate(norms, start=1) if math.isfinite(norm)]
    assert not torch.equal(before, trained[0].weight)


def test_with_a_scaler_a_loss_that_is_not_finite_counts(make_trainer, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: Scaler(init_scale=1024.0))
    trained = network()
    trainer = guarded(
        make_trainer, tmp_path, trained, spoil(batches, [2, 3]), patience=2, amp=True, amp_kwargs={"enabled": False}
    )
    with pytest.raises(DataError, match=r"^case4, case5, case6, case7: found a loss or gradient in 2 steps"):
        trainer.run()
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


def fused(model):
    """Skips steps in its kernel, on a GPU without telling the CPU."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fused_optimizer_leaves_the_bad_step_out_itself(make_trainer, batches, tmp_path, accumulation, value):
    trained, expected = network(), network()
    options = {"kind": fused, "max_norm": 0.5, "accumulation_steps": accumulation}
    trainer = guarded(make_trainer, tmp_path, trained, spoil(batches, [2, 3], value), **options)
    trainer.run()
    guarded(make_trainer, tmp_path, expected, batches[:2] + batches[4:], **options).run()
    for key, found in trained.state_dict().items():
        assert torch.equal(found, expected.state_dict()[key]), key
    steps = [state["step"] for state in trainer.optimizer.state.values()]
    assert all(step == (5 if accumulation == 1 else 3) for step in steps)


def test_what_a_fused_optimizer_left_out_is_read_later(make_trainer, batches, tmp_path, caplog):
    """All that is to be read waits for the fifth step, or for the end of the epoch."""
    read = []

    def watch(engine):
        read.append((isinstance(engine.state.gradient_norm, float), engine.state.loss is not None))

    trained = network()
    optimizer = fused(trained)
    guard = GradientGuard(optimizer=optimizer, network=trained, output_dir=str(tmp_path), interval=5)
    trainer = make_trainer(trained, spoil(batches, [1, 5, 6]), [guard], optimizer=optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, watch)
    trainer.run()
    assert read == [(False, False)] * 4 + [(True, True)] + [(False, True)] * 2
    assert [record.args[0] for record in caplog.records if "skipped" in record.msg] == [2, 6, 7]


def test_a_fused_optimizer_stops_at_the_next_reading(make_trainer, batches, tmp_path):
    batches[4]["image"][1, 2] = float("nan")
    trained = network()
    with pytest.raises(DataError, match=r"^case9: found voxels that are not finite"):
        guarded(make_trainer, tmp_path, trained, batches, kind=fused).run()
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


def test_a_fused_optimizer_with_a_scaler(make_trainer, batches, tmp_path, monkeypatch):
    """Found by the scaler: gradients that overflow; by the guard: the norm without the scale."""
    scaler = Scaler(init_scale=2.0**127)
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: scaler)
    scaled, plain = network(), network()
    norms = []
    trainer = guarded(
        *(make_trainer, tmp_path, scaled, batches),
        **{"kind": fused, "max_norm": 0.5, "patience": 1, "amp": True, "amp_kwargs": {"enabled": False}},
        loss=lambda pred, label: 2 * torch.nn.functional.mse_loss(pred, label),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: norms.append(float(e.state.gradient_norm)))
    trainer.run()
    kept = [batch for batch, norm in zip(batches, norms, strict=True) if math.isfinite(norm)]
    assert 2 <= len(kept) < len(batches)
    guarded(
        *(make_trainer, tmp_path, plain, kept),
        **{"kind": fused, "max_norm": 0.5},
        loss=lambda pred, label: 2 * torch.nn.functional.mse_loss(pred, label),
    ).run()
    for found, value in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)
