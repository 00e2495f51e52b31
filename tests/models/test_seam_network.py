"""What the network of seams can see, and what it cannot."""

import torch

from tessera.models.seam_network import SeamNetwork


def answers(network, x, near, inside, alpha_bar=0.7):
    with torch.no_grad():
        return network(x, torch.full((len(x),), alpha_bar), near, inside)


def frames(rows=4):
    near, inside = torch.zeros(rows, 8, 8, dtype=torch.bool), torch.zeros(rows, 8, 8, dtype=torch.bool)
    near[:, :, 3:5] = True
    inside[:, :, 4:] = True
    return near, inside


def trained():
    torch.manual_seed(0)
    network = SeamNetwork(3)
    torch.nn.init.normal_(network.answer.weight)
    return network


def test_it_sees_the_cells_beside_the_border_alone():
    network, (near, inside) = trained(), frames()
    x = torch.randn(4, 3, 8, 8)
    other = torch.where(near[:, None], x, torch.randn(4, 3, 8, 8))
    assert torch.equal(answers(network, x, near, inside), answers(network, other, near, inside))
    moved = torch.where(near[:, None], x.roll(1, 3), x)
    assert (answers(network, x, near, inside) - answers(network, moved, near, inside)).abs().min() > 1e-4


def test_it_answers_a_half_at_first_and_without_a_border():
    torch.manual_seed(0)
    near, inside = frames()
    x = torch.randn(4, 3, 8, 8)
    assert answers(SeamNetwork(3), x, near, inside).eq(0).all()
    near[1] = False
    assert answers(trained(), x, near, inside).eq(0).tolist() == [False, True, False, False]


def test_its_answer_fades_with_the_signal():
    network, (near, inside) = trained(), frames()
    x = torch.randn(4, 3, 8, 8)
    assert answers(network, x, near, inside, 1e-6).abs().max() < 0.01 < answers(network, x, near, inside).abs().max()
