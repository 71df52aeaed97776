"""`cryoaae doctor`."""

from __future__ import annotations

import typer

from cryoaae.cli import options as o
from cryoaae.errors import ResourceError


def command(as_json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what this installation can use, and test that it computes what it should."""
    import torch

    from cryoaae.physics.wedge import MissingWedge
    from cryoaae.runs.provenance import versions
    from cryoaae.runs.resources import available_memory_bytes

    facts: dict[str, object] = dict(versions())
    facts["threads"] = torch.get_num_threads()
    facts["memory_free_gb"] = round(available_memory_bytes() / 1e9, 1)
    facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    x = torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0))
    once = MissingWedge((-50.0, 60.0)).measured(x)
    error = float((MissingWedge((-50.0, 60.0)).measured(once) - once).abs().max())
    facts["self_test"] = "good" if error < 1e-4 else f"the wedge is not a projector here (error {error:.2g})"
    if as_json:
        o.show(facts, as_json=True)
    else:
        for name, value in facts.items():
            typer.echo(f"{name}: {value}")
    if facts["self_test"] != "good":
        raise ResourceError(f"self-test failed: {facts['self_test']}")
