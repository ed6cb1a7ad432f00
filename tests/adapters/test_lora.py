"""Low-rank updates: identity at first, exact when merged."""

import copy

import pytest
import torch
from torch import nn

from aequorea.adapters.lora import LoRA, LoRASpec
from aequorea.backbones.filters import Filters, FiltersSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.errors import SpecError
from aequorea.layers.conv import fold


@pytest.fixture
def body():
    torch.manual_seed(0)
    return UNet(UNetSpec(levels=3)).eval()


def trained(body, spec=None):
    """The body after a few steps that train only what the adapter says."""
    adapter = LoRA(spec or LoRASpec())
    named = dict(body.named_parameters())
    names = adapter.attach(body, body.points)
    chosen = [dict(body.named_parameters())[name] for name in names]
    assert not set(names) & set(named)
    optimizer = torch.optim.SGD(chosen, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        body(image(), None)[0].square().mean().backward()
        optimizer.step()
    return adapter, chosen


def image():
    return torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))


def test_begins_as_the_body_was(body):
    before = body(image(), None)[0]
    LoRA(LoRASpec()).attach(body, body.points)
    assert torch.equal(body(image(), None)[0], before)


def test_only_the_update_trains_and_every_part_of_it_does(body):
    frozen = {name: p.clone() for name, p in body.named_parameters()}
    before = body(image(), None)[0]
    _, chosen = trained(body)
    now = {name.replace("conv.layer.", "conv."): p for name, p in body.named_parameters()}
    assert all(torch.equal(now[name], p) for name, p in frozen.items())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in chosen)
    assert sum(p.numel() for p in chosen) < 0.2 * sum(p.numel() for p in frozen.values())
    assert not torch.allclose(body(image(), None)[0], before, atol=1e-4)


def test_merged_equals_attached_and_has_the_bodys_own_names(body):
    names = list(body.state_dict())
    adapter, _ = trained(body)
    attached = body(image(), None)[0]
    adapter.merge(body)
    assert torch.equal(body(image(), None)[0], attached)
    assert sorted(body.state_dict()) == sorted(names)
    assert all(p.requires_grad for p in body.parameters())


def test_evaluates_while_attached(body):
    trained(body)
    folded = copy.deepcopy(body)
    fold(folded)
    assert torch.allclose(folded(image(), None)[0], body(image(), None)[0], atol=1e-4)


def test_rank_and_alpha_matter(body):
    sizes, outputs = [], []
    for spec in (LoRASpec(), LoRASpec(rank=2), LoRASpec(alpha=2.0)):
        other = copy.deepcopy(body)
        sizes.append(sum(p.numel() for p in trained(other, spec)[1]))
        outputs.append(other(image(), None)[0])
    assert sizes[1] < sizes[0] == sizes[2]
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-5)


def test_linear_maps_take_updates_too():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    names = LoRA(LoRASpec(rank=1)).attach(body, ["0"])
    assert len(names) == 2 and all(name.startswith("0.") for name in names)


def test_a_body_without_points_is_told():
    with pytest.raises(SpecError, match="filters has no weights"):
        LoRA(LoRASpec()).attach(Filters(FiltersSpec()), Filters.points)
