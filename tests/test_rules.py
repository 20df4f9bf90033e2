"""Naming schemes: both directions follow from the same lines, and real networks agree."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier import vision
from luthier.adapt import How, load, match
from luthier.adapt.rules import Joined, RuleSet, built_in, read_rules
from luthier.errors import RecipeError

vision.load()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
tv = vision.load("torchvision.models")

HUGGING_FACE_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
    "layer_norm_eps": 1e-6,
}
TIMM_VIT: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2}


def hf_vit() -> nn.Module:
    config = transformers.ViTConfig(**HUGGING_FACE_VIT)
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


def hf_resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=10
    )
    model: nn.Module = transformers.ResNetForImageClassification(config)
    return model


def tv_vit() -> nn.Module:
    model: nn.Module = tv.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=10,
    )  # fmt: skip
    return model


def timm_vit() -> nn.Module:
    model: nn.Module = timm.models.VisionTransformer(
        img_size=32, patch_size=8, num_classes=10, **TIMM_VIT
    )
    return model


def without_values(make: Callable[..., nn.Module], name: str, **options: Any) -> nn.Module:
    """Build a network whose initialisation nobody waits for: ``shaken`` gives it values."""
    with torch.device("meta"):
        return make(name, num_classes=10, **options).to_empty(device="cpu")


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: without_values(timm.create_model, name, **options)


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: without_values(tv.get_model, name)


# (of the one scheme, of the other, the image's edge)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], int]] = {
    "efficientnet": (of_torchvision("efficientnet_b0"), of_timm("efficientnet_b0"), 64),
    "efficientnet v2": (
        of_torchvision("efficientnet_v2_s"),
        of_timm("tf_efficientnetv2_s", pad_type=""),
        64,
    ),
    "mobilenet v2": (of_torchvision("mobilenet_v2"), of_timm("mobilenetv2_100"), 64),
    "mobilenet v3": (of_torchvision("mobilenet_v3_small"), of_timm("mobilenetv3_small_100"), 64),
    "mobilenet v3 large": (
        of_torchvision("mobilenet_v3_large"),
        of_timm("mobilenetv3_large_100"),
        64,
    ),
    "convnext": (of_torchvision("convnext_tiny"), of_timm("convnext_tiny"), 64),
    "vit": (tv_vit, timm_vit, 32),
    "hugging face resnet": (hf_resnet, of_torchvision("resnet18"), 64),
    "hugging face vit, timm": (hf_vit, timm_vit, 32),
    "hugging face vit, torchvision": (hf_vit, tv_vit, 32),
}


def scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(images)
    found: torch.Tensor = getattr(output, "logits", output)
    return found


def shaken(model: nn.Module) -> nn.Module:
    """Give every tensor values of its own, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "var" in name else (noise - 0.5) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.eps = 1e-5  # a property of the network, not of its weights
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_renamed_weights_give_the_same_scores_and_come_back_to_the_bit(family: str) -> None:
    one, other, edge = FAMILIES[family]
    source, model, back = shaken(one()), shaken(other()), one()
    by_rules = How(order=False)
    plan = load(model, source.state_dict(), how=by_rules)
    assert plan.coverage == 1.0
    assert not plan.unexpected
    images = torch.randn(2, 3, edge, edge, generator=torch.Generator().manual_seed(1))
    expected = scores(source, images)
    assert expected.std() > 0
    torch.testing.assert_close(scores(model, images), expected, rtol=1e-4, atol=1e-4)
    plan = load(back, model.state_dict(), how=by_rules)
    assert not plan.unexpected
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def built(name: str) -> RuleSet:
    folder = Path(__file__).parents[1] / "src/luthier/adapt/schemes"
    return read_rules(folder / f"{name}.toml")


# --- reversible ---------------------------------------------------------------------------------


def pairs(joined: Joined) -> set[tuple[tuple[str, ...], str]]:
    return {(link.many, link.one) for link in joined.links}


EFFICIENTNET = built("efficientnet_pytorch")


@settings(deadline=None)
@given(
    depths=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    data=st.data(),
    squeeze=st.booleans(),
)
def test_blocks_counted_through_are_the_blocks_of_the_stages(
    depths: list[int], data: st.DataObject, squeeze: bool
) -> None:
    nested = [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
    expands = [data.draw(st.booleans()) for _ in nested]
    names = {}
    for n, ((s, b), expand) in enumerate(zip(nested, expands, strict=True)):
        theirs, ours = f"_blocks.{n}.", f"blocks.{s}.{b}."
        if expand:
            members = {
                "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
                "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
            }  # fmt: skip
        else:
            members = {
                "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
                "_bn2": "bn2",
            }  # fmt: skip
        if squeeze:
            members |= {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
        names |= {f"{theirs}{a}.weight": f"{ours}{b}.weight" for a, b in members.items()}
    shuffled = data.draw(st.permutations(list(names)))
    joined = EFFICIENTNET.join(shuffled, names.values())
    assert pairs(joined) == {((a,), b) for a, b in names.items()}
    assert joined.alone == ((), ())


@functools.cache
def names_of(make: Callable[[], nn.Module]) -> list[str]:
    return list(make().state_dict())


@pytest.mark.parametrize("rules", built_in(), ids=lambda rules: rules.title)
def test_no_name_has_two_partners(rules: RuleSet) -> None:
    for first, second, _ in FAMILIES.values():
        for sides in ((first, second), (second, first)):
            joined = rules.join(*map(names_of, sides))
            many = [name for link in joined.links for name in link.many]
            ones = [link.one for link in joined.links]
            assert len(set(many)) == len(many)
            assert len(set(ones)) == len(ones)


# --- of the caller's own ------------------------------------------------------------------------

OWN = """
title = "ours and theirs"
names = ["ours", "theirs"]

[[rules]]
under = ["stage{n}.", "body.{n+1}."]
pairs = [[["left.*", "right.*"], "both.*"], ["out.*", "{k}.out.*"]]
"""


def rule_file(folder: Path, text: str = OWN) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def own_names() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    ours, theirs = {}, {}
    for n in range(2):
        left, right, out = torch.randn(2, 3), torch.randn(4, 3), torch.randn(5)
        ours |= {f"stage{n}.left.weight": left, f"stage{n}.right.weight": right}
        ours |= {f"stage{n}.out.weight": out}
        theirs |= {f"body.{n + 1}.both.weight": torch.cat([left, right])}
        theirs |= {f"body.{n + 1}.7.out.weight": out}
    return ours, theirs


class Bag(nn.Module):
    """Tensors under dotted names."""

    def __init__(self, names: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        for name, shape in names:
            module: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))


def bag(state: dict[str, torch.Tensor]) -> Bag:
    return Bag((name, tuple(tensor.shape)) for name, tensor in state.items())


def test_a_scheme_of_the_callers_own_puts_parts_together(tmp_path: Path) -> None:
    ours, theirs = own_names()
    model = bag(theirs)
    plan = load(model, ours, how=How(rules=(read_rules(rule_file(tmp_path)),), order=False))
    assert all(torch.equal(model.state_dict()[name], t) for name, t in theirs.items())
    assert "put together along the first dimension" in str(plan)
    assert "rules ours and theirs (ours → theirs): 4 tensors" in str(plan)


def test_unequal_parts_are_not_guessed_back(tmp_path: Path) -> None:
    ours, theirs = own_names()
    plan = match(bag(ours), theirs, how=How(rules=(read_rules(rule_file(tmp_path)),)))
    assert plan.coverage < 1.0
    assert any("would go to stage0.left.weight" in doubt for doubt in plan.doubts)


def test_a_scheme_that_cannot_place_all_it_claims_is_not_taken(tmp_path: Path) -> None:
    ours, theirs = own_names()
    del theirs["body.2.7.out.weight"]
    plan = match(bag(theirs), ours, how=How(rules=(read_rules(rule_file(tmp_path)),), order=False))
    assert not plan.assignments
    assert any("stage1.out.weight would have no place" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 'x'", "names"),
        ("nonsense", "not TOML"),
        (OWN.replace("under", "udner"), "did you mean 'under'"),
        (OWN.replace("[[rules]]", "[[rule]]"), "rules"),
        (OWN.replace('"out.*", "{k}.out.*"', '"out.*"'), r"rule 1: \['out\.\*'\] is no pair"),
        (OWN.replace('"{k}.out.*"', '"{k}.out.w"'), "one side only"),
        (OWN.replace('"{k}.out.*"', '"{K}.out.*"'), "has a brace that is no number"),
        (OWN.replace('"{k}.out.*"', '"{k}.{k}.*"'), "twice"),
        (OWN.replace('"{k}.out.*"', '"{0*k}.out.*"'), "the same for all numbers"),
        (OWN + "optional = 'no'\n", "optional is 'no', expected true or false"),
        (OWN + "having = ['weight']\n", "expected two texts, one of each side"),
        (f"wrong = 1\n{OWN}", "unknown key 'wrong'"),
    ],
)
def test_rules_that_are_wrong_say_so(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as error:
        read_rules(rule_file(tmp_path, text))
    assert "own.toml" in str(error.value)


def test_rules_that_are_not_there_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file"):
        read_rules(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_rules(tmp_path)


def test_a_number_of_any_length_in_a_name_is_survived() -> None:
    name = f"_blocks.{'9' * 5000}._bn1.weight"
    assert EFFICIENTNET.join([name], ["blocks.0.0.bn1.weight"]).links == ()


# --- files of today and of the past -------------------------------------------------------------

HUB_NAMES = {
    "vit.layers.": "vit.encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@pytest.mark.parametrize("maker", [timm_vit, tv_vit])
def test_a_vit_of_the_hub_is_loaded_with_its_pooler_left_out(
    maker: Callable[[], nn.Module],
) -> None:
    source, model, through_new_names = shaken(hf_vit()), maker(), maker()
    state = dict(source.state_dict())
    load(through_new_names, state, how=How(order=False))
    old = {}
    for name, tensor in state.items():
        for new, hub in HUB_NAMES.items():
            name = name.replace(new, hub)  # noqa: PLW2901
        old[name] = tensor
    old |= {
        "vit.pooler.dense.weight": torch.zeros(32, 32),
        "vit.pooler.dense.bias": torch.zeros(32),
    }
    plan = load(model, old, how=How(order=False))
    assert plan.unexpected == ("vit.pooler.dense.weight", "vit.pooler.dense.bias")
    expected = through_new_names.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


def test_prefixes_on_both_sides_of_a_renaming_are_undone() -> None:
    source = shaken(of_torchvision("mobilenet_v2")())
    state = {f"module.net.trunk.{name}": t for name, t in source.state_dict().items()}

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = of_timm("mobilenetv2_100")()

    model, plain = Wrapper(), of_timm("mobilenetv2_100")()
    load(model, state, how=How(order=False))
    load(plain, source.state_dict(), how=How(order=False))
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in model.encoder.state_dict().items())


def test_a_trunk_without_a_head_goes_into_a_network_that_keeps_its_own() -> None:
    trunk = shaken(hf_resnet()).resnet
    model = of_torchvision("resnet18")()
    plan = load(model, trunk.state_dict(), head=("fc.weight", "fc.bias"), how=How(order=False))
    assert plan.coverage == 1.0
    assert torch.equal(model.conv1.weight, trunk.embedder.embedder.convolution.weight)


def test_published_densenets_have_older_names() -> None:
    source, model = shaken(of_torchvision("densenet121")()), of_torchvision("densenet121")()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in source.state_dict().items()
        if not name.endswith("num_batches_tracked")  # older than these counts, too
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    plan = load(model, old, how=How(order=False))
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in source.named_parameters())
    assert not plan.unexpected


def test_weight_norm_and_layer_norm_of_the_past() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(3, 4)), nn.ReLU(), norm(nn.Linear(4, 2)))
    old = {
        f"{i}.{leaf}": torch.randn(shape)
        for i, (a, b) in ((0, (4, 3)), (2, (2, 4)))
        for leaf, shape in (("bias", (a,)), ("weight_g", (a, 1)), ("weight_v", (a, b)))
    }
    load(model, old, how=How(order=False))
    assert torch.equal(model[2].parametrizations.weight.original0, old["2.weight_g"])
    assert torch.equal(model[0].parametrizations.weight.original1, old["0.weight_v"])

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 3)
            self.LayerNorm = nn.LayerNorm(3)

    block = nn.Sequential(Block())
    state = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t + 1
             for n, t in block.state_dict().items()}  # fmt: skip
    load(block, state, how=How(order=False))
    assert torch.equal(block[0].LayerNorm.weight, state["0.LayerNorm.gamma"])
