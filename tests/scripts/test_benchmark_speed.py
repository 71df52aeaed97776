"""The page of speeds is that of its rows, and says whether goals are reached."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from cryoaae.nets.unet import UNet

page, benchmark = map(importlib.import_module, ("speed_table", "benchmark_speed"))


def test_the_committed_page_is_that_of_the_committed_rows() -> None:
    assert benchmark.PAGE.read_text() == page.table(benchmark.read_rows(benchmark.ROWS))


def row(name: str, **facts: Any) -> dict[str, Any]:
    return {"name": name, "device": "cpu", "threads": 1, "torch": "2", "machine": "m", "date": "d", **facts}


def restored(seconds: float) -> dict[str, Any]:
    return row(
        "restore", shape_zyx=[75, 928, 960], tiles=1, tile_zyx=[64, 500, 504], cpu_seconds=seconds, voxels_per_s=1e6,
        share_in_network=0.6, share_of_layers_alone=0.4, read_over_grid=1.0, rss_anon_gb=1.0, operations=1e12,
    )  # fmt: skip


def test_a_slab_is_scaled_to_the_volume_and_the_last_row_counts() -> None:
    assert "**20 minutes**, 75 x 928 x 960 times 4.0" in page.table([restored(1), restored(599)])
    assert "; reached." in page.table([restored(599)])
    assert "; not reached." in page.table([restored(700)])


@pytest.mark.parametrize(("channels", "levels"), [(4, 1), (4, 2)])
def test_operations_are_counted(channels: int, levels: int) -> None:
    network = UNet(2, widths=[channels] * levels)
    conv = 2 * 27
    fine = conv * (2 * channels + channels**2) + 2 * channels
    up = conv * (2 * channels**2 + channels**2) if levels == 2 else 0
    coarse = (2 * conv * channels**2 + 2 * channels**2) / 8 if levels == 2 else 0
    assert benchmark.operations_per_voxel(network, torch.zeros(1, 1)) == pytest.approx(fine + up + coarse)


def test_seconds_are_those_of_the_processor() -> None:
    import time

    assert benchmark.seconds_of(lambda: time.sleep(0.02) or sum(range(50_000)), least=0.005) < 0.02
