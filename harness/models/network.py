"""A network from a row of the table of architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, overload

from torch import Tensor, nn

from harness import architectures
from harness.architectures import DeathEvent
from harness.config import ModelConfig
from harness.models.blocks import InceptionResNetBlock, ResNetBlock, build_module
from harness.models.layers import ConvLayer, GlobalAveragePool, ResidualSum, Style


class AuxiliaryHead(nn.Module):
    """Classifier on the second stage's output (TF-slim): 5x5/3 mean, 1x1 128, 5x5 768, mean over positions, linear.

    (N, C, H, W) -> (N, classes). `grid`: height and width of its input. At 299x299 the 5x5 layer covers the whole
    pooled map. For larger images it stays 5x5, and the mean is torchvision's (slim's layer grows with the map), so that
    released weights fit. For smaller images torchvision's head fails; here the layer is as large as the pooled map, and
    released weights do not fit.
    """

    def __init__(self, in_width: int, num_classes: int, grid: int, factor: float, style: Style) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(architectures.AUX_POOL, 3)
        narrow, wide = (architectures.scale_filters(filters, factor) for filters in architectures.AUX_FILTERS)
        kernel = min(architectures.AUX_KERNEL, (grid - architectures.AUX_POOL) // 3 + 1)
        self.reduce = ConvLayer(in_width, narrow, (1, 1), style)
        self.whole_map = ConvLayer(narrow, wide, (kernel, kernel), style, valid=True)
        self.classifier = nn.Linear(wide, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.classifier(self.whole_map(self.reduce(self.pool(x))).mean(dim=(2, 3)))
        return out


class Network(nn.Module):
    """Stem, stages with reductions between them, global average pool, dropout, classifier.

    `stages[i][j]` is the j-th module of stage i, `reductions[i]` stands between stages i and i + 1, and the input of
    `pool` is the pre-pool activation. `config` is the resolved configuration.
    """

    def __init__(self, config: ModelConfig, *, num_classes: int, image_size: int) -> None:
        super().__init__()
        plan = architectures.blueprint(config)
        inception_resnet = plan.architecture.kind == "inception_resnet"
        self.config = config
        self.relu_feeds_pool, self.bn_before_pool_relu = architectures.pool_input(config)
        self.death_event: DeathEvent = architectures.death_event(config)
        style = Style(
            activation=config.activation,
            normed=config.batch_norm != "none",
            bn_gamma=config.bn_gamma,
            bn_eps=config.bn_eps,
            bn_momentum=config.bn_momentum,
        )

        width = 3
        self.stem = nn.Sequential()
        for module in plan.stem:
            self.stem.append(build_module(module, width, style))
            width = architectures.out_width(module, width)

        self.stages = nn.ModuleList()
        self.reductions = nn.ModuleList()
        self.aux_head: AuxiliaryHead | None = None
        scales = architectures.residual_scales(config)
        for index, modules in enumerate(plan.stages):
            if index > 0:
                reduction = plan.reductions[index - 1]
                self.reductions.append(nn.Identity() if reduction is None else build_module(reduction, width, style))
                width = width if reduction is None else architectures.out_width(reduction, width)
            stage = nn.Sequential()
            for place, module in enumerate(modules):
                is_last = index == len(plan.stages) - 1 and place == len(modules) - 1
                scale = scales[index][place] if scales else None
                stage.append(_build_block(plan.architecture, config, module, width, style, scale, is_last))
                width = width if inception_resnet else architectures.out_width(module, width)
            self.stages.append(stage)
            if index == architectures.AUX_STAGE and config.aux_head:
                grid = plan.grids(image_size)[index]
                self.aux_head = AuxiliaryHead(width, num_classes, grid, config.width, style)

        self.last_layer: nn.Module = nn.Identity()
        if plan.last_layer is not None:
            self.last_layer = build_module(plan.last_layer, width, style)
            width = architectures.out_width(plan.last_layer, width)
        self.pool = GlobalAveragePool()
        keep = config.dropout_keep
        self.dropout = nn.Identity() if keep is None or keep == 1.0 else nn.Dropout(1.0 - keep)
        self.classifier = nn.Linear(width, num_classes)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The network's parts with their names, in the order in which an image passes them."""
        yield "stem", self.stem
        for index, stage in enumerate(self.stages):
            if index > 0:
                yield f"reduction {index}", self.reductions[index - 1]
            yield f"stage {index + 1}", stage
        yield "last layer", self.last_layer
        yield "classifier", self.classifier
        if self.aux_head is not None:
            yield "aux head", self.aux_head

    @overload
    def forward(self, images: Tensor, *, with_aux: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, images: Tensor, *, with_aux: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, images: Tensor, *, with_aux: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) -> logits (N, classes); `with_aux`: and the auxiliary head's logits (N, classes)."""
        aux = None
        x = self.stem(images)
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = self.reductions[index - 1](x)
            x = stage(x)
            if with_aux and index == architectures.AUX_STAGE:
                if self.aux_head is None:
                    raise ValueError(f"this {self.config.name} has no auxiliary head: build it with aux_head=True")
                aux = self.aux_head(x)
        logits: Tensor = self.classifier(self.dropout(self.pool(self.last_layer(x))))
        return logits if aux is None else (logits, aux)


def _build_block(
    row: architectures.Architecture,
    config: ModelConfig,
    module: architectures.Module,
    width: int,
    style: Style,
    scale: float | None,
    is_last: bool,
) -> nn.Module:
    """One module of a stage; `is_last`: the last before the pool."""
    if scale is None:
        return build_module(module, width, style)
    residual_sum = ResidualSum(scale, learned=config.residual_scale == "learned")
    sum_norm = config.batch_norm == "after_sum" or (config.batch_norm == "pre_pool" and is_last)
    if row.kind == "resnet":
        return ResNetBlock(module, width, style, residual_sum, sum_norm=sum_norm)
    return InceptionResNetBlock(
        module,
        width,
        style,
        residual_sum,
        bias=config.up_projection_bias != "off",
        branch_norm=config.batch_norm == "branch_output",
        sum_norm=sum_norm,
        linear=is_last and row.last_block is not None,
    )
