# %% program_syntax: SyntaxError
import math

def area(radius)
    return math.pi * radius ** 2

# %% program_indentation: IndentationError
for step in range(3):
print(step)

# %% program_encoding: SyntaxError
# -*- coding: no-such-code -*-
print("hello")

# %% program_thread: KeyError
import threading

def read():
    {"train": 1}["test"]

thread = threading.Thread(target=read, name="reader")
thread.start()
thread.join()

# %% program_pool_raised: IndexError
import multiprocessing

def read(row):
    return [1, 2][row]

if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        pool.map(read, [0, 5])

# %% program_executor_raised: ZeroDivisionError
from concurrent.futures import ProcessPoolExecutor

def share(total):
    return total / 0

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        pool.submit(share, 3).result()

# %% near_program_input_at_its_end: EOFError
answer = input("CUDA out of memory. Try again? [y/n] ")

# %% near_program_worker_died: BrokenProcessPool
import os
from concurrent.futures import ProcessPoolExecutor

def leave(_):
    os._exit(1)

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        pool.submit(leave, 1).result()

# %% near_program_lambda_in_a_pool: PicklingError
import multiprocessing

if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        pool.map(lambda row: row + 1, [1, 2])

# %% near_program_local_function_in_a_pool: AttributeError
import multiprocessing

def main():
    def double(row):
        return 2 * row
    with multiprocessing.Pool(1) as pool:
        pool.map(double, [1, 2])

if __name__ == "__main__":
    main()

# %% near_program_process_failed: ValueError
import multiprocessing

def train(rank):
    raise ValueError(f"rank {rank}: there is no such experiment")

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=train, args=(0,))
    process.start()
    process.join()

# %% near_program_session_twice: PermissionError
import os

os.setsid()
os.setsid()

# %% near_program_too_many_threads_of_a_loom: RuntimeError
threads = 900
if threads > 800:
    raise RuntimeError("can't start new thread on this loom: its spool holds 800")

# %% near_program_worker_raised_a_key: KeyError
from torch.utils.data import DataLoader, Dataset

class Rows(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": index}["label"]

if __name__ == "__main__":
    next(iter(DataLoader(Rows(), num_workers=1)))

# %% near_program_worker_missed_a_file: FileNotFoundError
from pathlib import Path
from torch.utils.data import DataLoader, Dataset

class Notes(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Path(f"notes/{index}.txt").read_text()

if __name__ == "__main__":
    next(iter(DataLoader(Notes(), num_workers=1)))

# %% near_program_spawned_raised_a_value: ValueError
from torch.multiprocessing import start_processes

def work(rank):
    int("the learning rate")

if __name__ == "__main__":
    start_processes(work, nprocs=1, start_method="fork")
