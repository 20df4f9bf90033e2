"""A GAN: two models, two optimizers. Lines marked with # luthier make it resumable.

Every model and optimizer has a name of its own. The noise that the loop draws comes again too.

    python examples/gan.py runs/gan 50

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import luthier  # luthier


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    real = TensorDataset(torch.randn(256, 2) * torch.tensor([1.0, 0.2]) + 2)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    to_fool = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    to_tell = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    score = nn.functional.binary_cross_entropy_with_logits
    run = luthier.Run(  # luthier
        folder, generator=generator, critic=critic, to_fool=to_fool, to_tell=to_tell
    )
    for _epoch in run.epochs(epochs):  # luthier
        for (points,) in run.batches(real, batch_size=16, shuffle=True):  # luthier
            made = generator(torch.randn(len(points), 4))
            yes, no = torch.ones(len(points), 1), torch.zeros(len(points), 1)
            telling = score(critic(points), yes) + score(critic(made.detach()), no)
            to_tell.zero_grad()
            telling.backward()
            to_tell.step()
            fooling = score(critic(made), yes)
            to_fool.zero_grad()
            fooling.backward()
            to_fool.step()
        run.log(telling=telling, fooling=fooling)  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
