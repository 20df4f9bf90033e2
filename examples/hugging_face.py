"""A Hugging Face model that learns to copy. Lines marked with # luthier make it resumable.

Needs transformers.

    python examples/hugging_face.py runs/hugging_face 20

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

import luthier  # luthier


class Copies(Dataset[dict[str, torch.Tensor]]):
    """Random words, each followed by itself."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        word = torch.randint(0, 32, (6,))
        return {"input_ids": torch.cat([word, word]), "labels": torch.cat([word, word])}


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    data = Copies()
    size = GPT2Config(vocab_size=32, n_positions=12, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, 8 * epochs)
    run = luthier.Run(folder, model=model, optimizer=optimizer, scheduler=scheduler)  # luthier
    for _epoch in run.epochs(epochs):  # luthier
        for batch in run.batches(data, batch_size=8, shuffle=True):  # luthier
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        run.log(loss=loss)  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
