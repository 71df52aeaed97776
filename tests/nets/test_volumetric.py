"""Networks of volumes: every box, no talk between particles, silence."""

from __future__ import annotations

import pytest
import torch

from cryoaae.draws import Draws
from cryoaae.nets.stacked import initialise
from cryoaae.nets.volumetric import VolumeDecoder, VolumeTrunk


def made(net, seed: int = 0):
    initialise(net, Draws.seeded(seed))
    return net


@pytest.mark.parametrize("box", [8, 18, 24, 96])
def test_a_particle_is_coded_and_decoded_as_if_it_were_alone_in_boxes_of_any_size(box):
    trunk, decoder = made(VolumeTrunk(box, (2, 4), 6)), made(VolumeDecoder(3, box, (2, 4), 6))
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 1, box, box, box, generator=generator), torch.randn(2, 3, generator=generator)
    with torch.no_grad():
        for net, given in ((trunk, x), (decoder, z)):
            torch.testing.assert_close(net(given)[1:], net(given[1:]), atol=1e-5, rtol=1e-4)
            assert not torch.allclose(net(given)[0], net(given)[1])
        assert decoder(z).shape == x.shape


def test_weights_come_from_the_draws_alone():
    weights = [made(VolumeTrunk(8, (2, 4), 6), seed).state_dict() for seed in (0, 0, 1)]
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights[0].values(), weights[2].values(), strict=True))
    with pytest.raises(ValueError, match="do not stack"):
        initialise(VolumeTrunk(8, (2,), 6), Draws.seeded([0, 1]))


def test_features_keep_the_size_of_their_input_and_a_new_decoder_is_nearly_silent():
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x = torch.randn(8, 1, 24, 24, 24, generator=generator)
        features = made(VolumeTrunk(24, (16, 32, 64), 256))(x)
        volumes = made(VolumeDecoder(24, 24, (16, 32, 64), 256))(torch.randn(8, 24, generator=generator))
    assert 0.3 < float(features.square().mean().sqrt()) < 3
    assert 0 < float(volumes.square().mean().sqrt()) < 0.3
