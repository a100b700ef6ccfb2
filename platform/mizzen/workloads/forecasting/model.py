"""The networks: from the scaled past to quantiles of every step of the horizon.

B batch, T steps of past (any number), C context length, H horizon, P past and K known covariates (with
features of the calendar), F features of a step, Q quantiles, A anchors, D hidden size.

Both architectures correct simple forecasts ("anchors": last value, drifts, seasonal naives), which they
weigh by horizon. So the network starts where the best simple method ends, and learns the rest.
It does not scale: `scaling` does, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.scaling import known_width
from mizzen.workloads.forecasting.series import Meta

_CLIP = 30.0
"""Scaled inputs beyond this say no more to the network than this does."""


def build(config: ModelConfig, meta: Meta, dropout: float) -> Forecaster:
    """A fresh model for series of `meta`."""
    return Forecaster(config, meta, dropout)


class Forecaster(nn.Module):
    """The mean over one or several networks of their quantiles; quantiles never cross."""

    def __init__(self, config: ModelConfig, meta: Meta, dropout: float) -> None:
        super().__init__()
        self.context_length, self.horizon = meta.context_length, meta.horizon
        kinds = {"tide": DenseMember, "lstm": RecurrentMember}
        kind = kinds[config.architecture]
        self.members = nn.ModuleList(kind(config, meta, dropout) for _ in range(config.members))
        self.mean_weight_Q: Tensor
        self.register_buffer("mean_weight_Q", mean_weights(config.quantiles), persistent=False)

    def forward(
        self,
        past_target: Tensor,
        past_mask: Tensor,
        past_covariates: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Quantiles (B, H, Q) and mean (B, H) in scaled units.

        `past_target` (B, T), filled forward where missing; `past_mask` (B, T), 1 where observed;
        `past_covariates` (B, T, P); `known` (B, T + H, K). Any T >= 1: what is missing of the context
        counts as not observed, and of a longer past the end is taken.
        """
        past_BC = _last(past_target, self.context_length)
        mask_BC = _last(past_mask, self.context_length)
        past_BC = torch.clamp(past_BC, -_CLIP, _CLIP)
        past_BCP = None if past_covariates is None else _last(past_covariates, self.context_length)
        known_BTK = None if known is None else _last(known, self.context_length + self.horizon)
        each = [member(past_BC, mask_BC, past_BCP, known_BTK) for member in self.members]
        quantiles_BHQ = torch.stack(each).mean(dim=0)
        return quantiles_BHQ, (quantiles_BHQ * self.mean_weight_Q).sum(dim=2)


def mean_weights(levels: list[float]) -> Tensor:
    """Weights (Q,) that turn quantiles into the mean: the integral of the quantile function.

    Between the levels it is taken as linear, beyond the outermost as constant.
    """
    level_Q = torch.tensor(levels)
    border = torch.cat([torch.zeros(1), (level_Q[1:] + level_Q[:-1]) / 2, torch.ones(1)])
    return border[1:] - border[:-1]


def _last(x: Tensor, length: int) -> Tensor:
    """The last `length` steps of x (B, T, ...), zeros before its start where it is shorter."""
    zeros = x.new_zeros(1, length, *x.shape[2:]).expand(x.shape[0], *(-1 for _ in x.shape[1:]))
    return torch.cat([zeros, x], dim=1)[:, -length:]


def _differences(past_BC: Tensor, mask_BC: Tensor, lag: int) -> Tensor:
    """Each step less the one `lag` before it (B, C); 0 where either was not observed."""
    both_BC = mask_BC[:, lag:] * mask_BC[:, :-lag]
    return F.pad((past_BC[:, lag:] - past_BC[:, :-lag]) * both_BC, (lag, 0))


class Member(nn.Module):
    """What both architectures share: features of the past, anchors, and quantiles that never cross."""

    def __init__(self, config: ModelConfig, meta: Meta) -> None:
        super().__init__()
        self.horizon = meta.horizon
        self.inputs = frozenset(config.inputs)
        self.drifts = [steps for steps in config.anchors if steps < meta.context_length]
        periods = meta.seasonality if config.seasonal_anchors else ()
        self.periods = [period for period in periods if period < meta.context_length]
        self.num_known = known_width(meta)
        self.num_features = 1 + len(self.inputs) + len(meta.past_names)
        num_anchors = 1 + len(self.drifts) + 2 * len(self.periods)
        self.season = max((p for p in meta.seasonality if 2 * p <= meta.context_length), default=1)
        self.anchor_weight_HA = nn.Parameter(torch.zeros(meta.horizon, num_anchors))
        self.median = config.quantiles.index(0.5)
        self.num_quantiles = len(config.quantiles)

    def features(self, past_BC: Tensor, mask_BC: Tensor, past_BCP: Tensor | None) -> Tensor:
        """Features of each step of the past (B, C, F): mask, values, steps between them, covariates."""
        parts = [mask_BC]
        if "values" in self.inputs:
            parts.append(past_BC)
        if "differences" in self.inputs:
            parts.append(_differences(past_BC, mask_BC, 1))
        if "seasonal_differences" in self.inputs:
            parts.append(_differences(past_BC, mask_BC, self.season))
        features_BCF = torch.stack(parts, dim=2)
        return features_BCF if past_BCP is None else torch.cat([features_BCF, past_BCP], dim=2)

    def anchors(self, past_BC: Tensor, mask_BC: Tensor) -> Tensor:
        """The simple forecasts, weighed (B, H): last value, drifts, values of a season before, the same
        moved to the last level.

        Where the series did not reach back by a season, its last value stands in.
        """
        position_C = torch.arange(past_BC.shape[1], dtype=past_BC.dtype, device=past_BC.device)
        first_B1 = (position_C + (1 - mask_BC) * past_BC.shape[1]).amin(dim=1, keepdim=True)
        last_B1 = past_BC[:, -1:]
        step_H = torch.arange(1, self.horizon + 1, dtype=past_BC.dtype, device=past_BC.device)
        anchors = [last_B1.expand(-1, self.horizon)]
        for steps in self.drifts:
            reach_B1 = (past_BC.shape[1] - 1 - first_B1).clamp(min=1.0, max=float(steps))
            at_B1 = (past_BC.shape[1] - 1 - reach_B1).long()
            slope_B1 = (last_B1 - past_BC.gather(1, at_B1)) / reach_B1
            anchors.append(last_B1 + slope_B1 * step_H)
        exists_BC = (position_C >= first_B1).to(past_BC.dtype)
        season_BC = past_BC * exists_BC + last_B1 * (1 - exists_BC)
        for period in self.periods:
            repeats = -(-self.horizon // period)
            season_BH = torch.cat([season_BC[:, -period:]] * repeats, dim=1)[:, : self.horizon]
            anchors += [season_BH, season_BH + last_B1 - season_BC[:, -period - 1 : -period]]
        weight_HA = torch.softmax(self.anchor_weight_HA, dim=1)
        return (torch.stack(anchors, dim=2) * weight_HA).sum(dim=2)

    def spread(self, raw_BHQ: Tensor, base_BH: Tensor) -> Tensor:
        """Quantiles (B, H, Q) from raw outputs: the median is free, each other is its neighbour plus more."""
        middle = self.median
        median_BH1 = raw_BHQ[:, :, middle : middle + 1] + base_BH[:, :, None]
        gap_BHQ = F.softplus(raw_BHQ)
        above = median_BH1 + torch.cumsum(gap_BHQ[:, :, middle + 1 :], dim=2)
        below = median_BH1 - torch.cumsum(gap_BHQ[:, :, :middle].flip(2), dim=2).flip(2)
        return torch.cat([below, median_BH1, above], dim=2)


class Residual(nn.Module):
    """Two dense layers beside a straight one, then a norm: TiDE's block."""

    def __init__(self, num_in: int, hidden: int, num_out: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(num_in, hidden), nn.ReLU(), nn.Linear(hidden, num_out), nn.Dropout(dropout)
        )
        self.straight = nn.Linear(num_in, num_out)
        self.norm = nn.LayerNorm(num_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., num_in) to (B, ..., num_out)."""
        result: Tensor = self.norm(self.dense(x) + self.straight(x))
        return result


class DenseMember(Member):
    """TiDE (Das et al. 2023, arXiv:2304.08424) with quantile heads and anchors for its linear residual."""

    def __init__(self, config: ModelConfig, meta: Meta, dropout: float) -> None:
        super().__init__(config, meta)
        size = config.hidden_size
        known_size = min(4, self.num_known)
        self.known = nn.Linear(self.num_known, known_size) if self.num_known else None
        width = meta.context_length * self.num_features + meta.horizon * known_size
        blocks: list[nn.Module] = [Residual(width, size, size, dropout)]
        blocks += [Residual(size, size, size, dropout) for _ in range(config.layers - 1)]
        self.encoder = nn.Sequential(*blocks)
        self.step_size = max(4, min(16, size // 4))
        self.decoder = Residual(size, size, meta.horizon * self.step_size, dropout)
        self.head = Head(self.step_size + self.num_known, self.num_quantiles)

    def forward(
        self, past_BC: Tensor, mask_BC: Tensor, past_BCP: Tensor | None, known_BTK: Tensor | None
    ) -> Tensor:
        """Quantiles (B, H, Q)."""
        flat = [self.features(past_BC, mask_BC, past_BCP).flatten(1)]
        ahead_BHK = None if known_BTK is None else known_BTK[:, -self.horizon :]
        if self.known is not None and ahead_BHK is not None:
            flat.append(self.known(ahead_BHK).flatten(1))
        code_BD = self.encoder(torch.cat(flat, dim=1))
        step_BHD = self.decoder(code_BD).unflatten(1, (self.horizon, self.step_size))
        if ahead_BHK is not None:
            step_BHD = torch.cat([step_BHD, ahead_BHK], dim=2)
        return self.spread(self.head(step_BHD), self.anchors(past_BC, mask_BC))


class RecurrentMember(Member):
    """An LSTM over the past, whose last state and the covariates of each step ahead make its quantiles."""

    def __init__(self, config: ModelConfig, meta: Meta, dropout: float) -> None:
        super().__init__(config, meta)
        size = config.hidden_size
        self.lstm = nn.LSTM(
            self.num_features + self.num_known,
            size,
            config.layers,
            batch_first=True,
            dropout=dropout if config.layers > 1 else 0.0,
        )
        self.step_size = max(4, min(16, size // 4))
        self.decoder = Residual(size, size, meta.horizon * self.step_size, dropout)
        self.head = Head(self.step_size + self.num_known, self.num_quantiles)

    def forward(
        self, past_BC: Tensor, mask_BC: Tensor, past_BCP: Tensor | None, known_BTK: Tensor | None
    ) -> Tensor:
        """Quantiles (B, H, Q)."""
        features_BCF = self.features(past_BC, mask_BC, past_BCP)
        if known_BTK is not None:
            features_BCF = torch.cat([features_BCF, known_BTK[:, : -self.horizon]], dim=2)
        state_BCD, _ = self.lstm(features_BCF)
        step_BHD = self.decoder(state_BCD[:, -1]).unflatten(1, (self.horizon, self.step_size))
        if known_BTK is not None:
            step_BHD = torch.cat([step_BHD, known_BTK[:, -self.horizon :]], dim=2)
        return self.spread(self.head(step_BHD), self.anchors(past_BC, mask_BC))


class Head(nn.Module):
    """From what is known of a step ahead to its quantiles; the same for all steps (TiDE's temporal decoder).

    It starts at the anchors: median 0, a spread of about one scaled unit.
    """

    def __init__(self, num_in: int, num_quantiles: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_in, 2 * num_in)
        self.out = nn.Linear(2 * num_in, num_quantiles)
        self.straight = nn.Linear(num_in, num_quantiles, bias=False)
        nn.init.zeros_(self.straight.weight)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, step_BHD: Tensor) -> Tensor:
        """(B, H, D) to (B, H, Q)."""
        result: Tensor = self.out(torch.relu(self.hidden(step_BHD))) + self.straight(step_BHD)
        return result


def pinball_loss(quantiles_BHQ: Tensor, target_BH: Tensor, mask_BH: Tensor, level_Q: Tensor) -> Tensor:
    """Mean pinball loss over rows, steps and quantiles; a missing step counts 0.

    The sum is divided by all steps, observed or not, so that two halves of a batch have the mean of their
    losses in common. Koenker and Bassett 1978.
    """
    error_BHQ = target_BH[:, :, None] - quantiles_BHQ
    loss_BHQ = torch.maximum(level_Q * error_BHQ, (level_Q - 1) * error_BHQ)
    return (loss_BHQ * mask_BH[:, :, None]).mean()
