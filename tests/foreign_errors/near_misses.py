import argparse
import copy
import ctypes
import errno
import gzip
import hashlib
import http.server
import io
import json
import lzma
import math
import mmap
import multiprocessing
import os
import pathlib
import pickle
import socket
import socketserver
import sqlite3
import ssl
import statistics
import struct
import subprocess
import sys
import tarfile
import threading
import traceback
import types
import zipfile
from concurrent.futures import Future

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LinearRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

# %% near_size_mismatch_of_ledgers: RuntimeError
raise RuntimeError("size mismatch for ledger.2024: 12 rows in the bank's file, 11 in ours")

# %% near_size_mismatch_of_an_upload: ValueError
sent, stored = 4096, 4000
raise ValueError(f"size mismatch: sent {sent} bytes, the store has {stored}")

# %% near_size_mismatch_of_shirts: AssertionError
order, parcel = "M", "L"
assert order == parcel, f"size mismatch for shirt: ordered {order}, packed {parcel}"

# %% near_shape_of_a_grid: RuntimeError
raise RuntimeError("copying a board with shape (8, 8) onto a board of shape (9, 9)")

# %% near_loading_state_of_a_game: RuntimeError
raise RuntimeError("Error(s) in loading saved game for Level3: no such dungeon")

# %% near_loading_states_of_a_map: ValueError
raise ValueError("Error in loading state_list for USA: 49 states, expected 50")

# %% near_missing_keys_of_a_form: ValueError
form = {"name": "Ann"}
missing = {"name", "city"} - set(form)
raise ValueError(f"Missing key(s) in form: {', '.join(sorted(missing))}")

# %% near_missing_keys_of_json: KeyError
answer = json.loads('{"state": "ok"}')
if "state_dict_url" not in answer:
    raise KeyError("Missing key(s) in answer: state_dict_url")

# %% near_unexpected_key_on_a_piano: RuntimeError
raise RuntimeError('Unexpected key(s) in melody: "c#9"')

# %% near_unexpected_keyword: TypeError
def load(path):
    return path
load("a.pt", strict=False)

# %% near_key_module: KeyError
layout = {"module.a": 1}
layout["module.x"]

# %% near_key_module_of_packages: KeyError
sys.modules["module.of.nobody"]

# %% near_key_state_dict: KeyError
people = {"texas": {"governor": "x"}}
state_dict = people
state_dict["ohio"]

# %% near_key_weight: KeyError
parcel = {"height": 3, "width": 4}
parcel["weight"]

# %% near_key_epoch: KeyError
log = [{"loss": 0.3}]
log[0]["epoch"]

# %% near_key_optimizer: KeyError
choices = {"sgd": 1, "adam": 2}
choices["optimizer"]

# %% near_key_param_groups: KeyError
teams = {"groups": []}
teams["param_groups"]

# %% near_param_group_of_a_form: ValueError
raise ValueError("loaded parameter group 3 of form 7 has no members, form was saved empty")

# %% near_prefix_of_a_number: ValueError
int("module.12")

# %% near_attribute_state_dict: AttributeError
class Country:
    def states(self):
        return ["ohio"]
Country().state_dict

# %% near_attribute_module: AttributeError
class Rocket:
    stage = 1
Rocket().module

# %% near_attribute_copy_of_a_dict: AttributeError
counts = {"a": 1}
counts.load_state({"a": 2})

# %% near_memory_in_a_user_error: ValueError
reports = ["job 7 failed: CUDA out of memory. Tried to allocate 2.00 GiB"]
count = int(reports[0])

# %% near_memory_log_then_key: KeyError
print("WARNING: CUDA out of memory with batch 512, going on with 256")
{"batch": 256}["batch_size"]

# %% near_memory_handled_then_division: ZeroDivisionError
try:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
except torch.OutOfMemoryError:
    traceback.print_exc()
    print("batch size halved to 16, going on")
print("mean loss", 0.0 / 0)

# %% near_memory_of_a_museum: RuntimeError
raise RuntimeError("out of memory cards: buy some")

# %% near_memory_of_sqlite: OperationalError
base = sqlite3.connect(":memory:")
try:
    base.execute("select out_of_memory from runs")
finally:
    base.close()

# %% near_memory_limit_of_cells: MemoryError
raise MemoryError("the sheet holds more than 1048576 rows")

# %% near_memory_of_lzma: LZMAError
lzma.LZMADecompressor(memlimit=1).decompress(lzma.compress(b"a" * 99))

# %% near_allocate_seats: RuntimeError
raise RuntimeError("tried to allocate 20 seats, 12 are free")

# %% near_killed_character: RuntimeError
raise RuntimeError("worker (pid 7) is killed by a dragon")

# %% near_bus_error_of_transport: RuntimeError
raise RuntimeError("Bus error: line 42 does not stop here")

# %% near_config_missing: FileNotFoundError
with open("configs/train.yaml") as config:
    config.read()

# %% near_named_missing_checkpoint_log: FileNotFoundError
pathlib.Path("notes/how-to-load-a-checkpoint.md").read_text()

# %% near_font_missing: FileNotFoundError
raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/usr/share/fonts/a.ttf")

# %% near_program_git_missing: FileNotFoundError
subprocess.run(["git-of-nobody", "rev-parse", "HEAD"], check=True)

# %% near_dataset_key_error_text: LookupError
raise LookupError("No such file or directory is listed in the catalogue of 1987")

# %% near_permission_of_a_broadcast: PermissionError
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
    radio.connect(("127.255.255.255", 9))

# %% near_permission_of_a_program: PermissionError
pathlib.Path("train.sh").write_text("#!/bin/sh\n")
subprocess.run(["./train.sh"])

# %% near_permission_of_a_hard_link: PermissionError
os.mkdir("photos")
os.link("photos", "pictures")

# %% near_permission_of_an_account: PermissionError
raise PermissionError("Permission denied: ann may not approve her own holiday")

# %% near_permission_in_json: KeyError
json.loads('{"error": "[Errno 13] Permission denied"}')["data"]

# %% near_no_space_in_a_hall: RuntimeError
raise RuntimeError("No space left on device shelf 28")

# %% near_no_space_in_text: ValueError
line = "OSError: [Errno 28] No space left on device"
int(line)

# %% near_quota_of_pages: OSError
raise OSError("the printer's quota of 28 pages is exceeded")

# %% near_too_many_files_quoted: RuntimeError
raise RuntimeError("the server answered: 'OSError: [Errno 24] Too many open files'")

# %% near_too_many_open_tabs: ValueError
raise ValueError("too many open files in the editor: close some tabs")

# %% near_read_only_attribute: AttributeError
complex(1, 2).real = 3

# %% near_mmap_of_an_empty_file: ValueError
with open("log.bin", "w+b") as log:
    mmap.mmap(log.fileno(), 0)

# %% near_hash_of_nobody: ValueError
hashlib.new("sha257", b"weights")

# %% near_symbol_of_libc: AttributeError
ctypes.CDLL(None).no_such_symbol

# %% near_library_of_nobody: OSError
ctypes.CDLL("libcudnn_of_nobody.so.9")

# %% near_eof_of_gzip: EOFError
with gzip.open(io.BytesIO(gzip.compress(b"x" * 9999)[:40])) as log:
    log.read()

# %% near_eof_of_a_pipe: EOFError
one, two = multiprocessing.Pipe()
with one:
    two.close()
    one.recv()

# %% near_eof_of_user_pickle: EOFError
pickle.loads(b"")

# %% near_zip_of_documents: BadZipFile
pathlib.Path("report.docx").write_text("no document of a word processor")
zipfile.ZipFile("report.docx")

# %% near_zip_in_memory: BadZipFile
zipfile.ZipFile(io.BytesIO(b"PK\3\4 cut off"))

# %% near_zip_checksum: BadZipFile
data = io.BytesIO()
with zipfile.ZipFile(data, "w") as archive:
    archive.writestr("a.txt", "abc")
broken = data.getvalue().replace(b"abc", b"abd", 1)
zipfile.ZipFile(io.BytesIO(broken)).read("a.txt")

# %% near_archive_of_photos: ReadError
with open("checkpoint.tar", "wb") as out:
    out.write(b"\x80\x02" * 999)
tarfile.open("checkpoint.tar")

# %% near_central_directory_of_a_city: RuntimeError
raise RuntimeError("failed finding central directory: the city hall is closed")

# %% near_pickle_of_own_cache: UnpicklingError
pathlib.Path("cache.pkl").write_bytes(b"not a pickle")
with open("cache.pkl", "rb") as cache:
    pickle.load(cache)

# %% near_pickle_cut: UnpicklingError
pickle.loads(pickle.dumps({"rows": list(range(999))})[:-200])

# %% near_pickle_magic: UnpicklingError
pickle.loads(b"\x89PNG\r\n\x1a\n")

# %% near_pickle_protocol: ValueError
pickle.loads(b"\x80\x63.")

# %% near_pickle_class_gone: AttributeError
pickle.loads(b"cmath\nNoSuchThing\n.")

# %% near_pickle_module_gone: ModuleNotFoundError
pickle.loads(b"cshop_of_nobody\nBasket\n.")

# %% near_pickle_local_class: AttributeError
def make():
    class Local:
        pass
    return Local()
pickle.dumps({"session": make()})

# %% near_pickle_of_a_database: TypeError
base = sqlite3.connect(":memory:")
try:
    pickle.dumps({"rows": base})
finally:
    base.close()

# %% near_pickle_of_an_open_file: TypeError
with open("log.txt", "w") as log:
    pickle.dumps(log)

# %% near_deepcopy_of_a_lock: TypeError
copy.deepcopy({"lock": threading.Lock()})

# %% near_pickle_in_a_restricted_reader: UnpicklingError
class Careful(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"Unsupported global: {module}.{name} is not on our list")
Careful(io.BytesIO(pickle.dumps(print))).load()

# %% near_weights_only_of_a_diet: TypeError
def weigh(person):
    return person
weigh("ann", weights_only=True)

# %% near_weights_only_of_a_scale: RuntimeError
raise RuntimeError("Weights only: this scale measures no height")

# %% near_numpy_file_of_text: ValueError
pathlib.Path("features.npy").write_text("no array")
np.load("features.npy")

# %% near_numpy_file_empty: EOFError
pathlib.Path("features.npy").touch()
np.load("features.npy")

# %% near_numpy_archive_cut: BadZipFile
np.savez("features.npz", x=np.zeros(99))
whole = pathlib.Path("features.npz").read_bytes()
pathlib.Path("features.npz").write_bytes(whole[:-90])
np.load("features.npz")

# %% near_header_too_large: ValueError
raise ValueError("header too large: 9000 bytes of cookies")

# %% near_invalid_header_of_mail: ValueError
raise ValueError("invalid header: Subject may not hold a line feed")

# %% near_device_of_a_phone: RuntimeError
raise RuntimeError("Expected all devices to be on the same wifi, but found at least two networks")

# %% near_device_assert_of_a_printer: RuntimeError
raise RuntimeError("device-side tray triggered an alarm: paper is out")

# %% near_device_ordinal: ValueError
raise ValueError("invalid device ordinal number for passport: 12th")

# %% near_device_unknown_to_alsa: OSError
raise OSError("Invalid device: speaker 3")

# %% near_torch_not_lit: AssertionError
def light():
    """Say "Torch not compiled with CUDA enabled" when it is dark."""
    assert False, "the torch is not lit"
light()

# %% near_not_compiled_regex: AssertionError
compiled = {"header": True, "footer": False}
assert compiled["footer"], "template not compiled with cache enabled"

# %% near_cuda_of_a_song: KeyError
chords = {"barracuda": "Em"}
chords["cuda"]

# %% near_cuda_name_in_path: ModuleNotFoundError
import cuda_of_nobody

# %% near_no_nvidia_driver_for_a_race: RuntimeError
raise RuntimeError("Found no driver on your team: is the race today?")

# %% near_cpu_number: ValueError
os.sched_setaffinity(0, {-1})

# %% near_nccl_word: ValueError
int("NCCL error: unhandled system error")

# %% near_worker_exited_of_a_shop: RuntimeError
raise RuntimeError("our worker (pid(s) 5, 6) exited the building unexpectedly")

# %% near_worker_number: ValueError
def hire(num_workers):
    if num_workers < 0:
        raise ValueError("num_workers may not be negative: hire somebody")
hire(-1)

# %% near_cannot_pickle_cucumber: RuntimeError
raise RuntimeError("can't pickle cucumbers: the jar is full")

# %% near_collate_of_papers: TypeError
def collate(pages):
    return "".join(pages)
collate(["a", None])

# %% near_default_collate_text: TypeError
raise TypeError("batch must contain eggs, flour or milk; found <class 'stone'>")

# %% near_bootstrapping_phase_of_a_company: RuntimeError
raise RuntimeError("An attempt has been made to start a new company before the old one is closed")

# %% near_fork_in_the_road: RuntimeError
raise RuntimeError("Cannot re-initialize the route in forked road: turn back")

# %% near_start_method: ValueError
multiprocessing.get_context("fork-and-knife")

# %% near_stack_of_arrays: ValueError
np.stack([np.ones(3), np.ones(4)])

# %% near_stack_of_plates: RuntimeError
raise RuntimeError("stack expects each plate to be equal size, but got 20 cm at entry 0")

# %% near_concatenate_of_arrays: ValueError
np.concatenate([np.ones((2, 3)), np.ones((2, 4))])

# %% near_shapes_of_arrays: ValueError
np.ones((32, 10)) @ np.ones((512, 10))

# %% near_dot_of_arrays: ValueError
np.dot(np.ones((4, 5)), np.ones((4, 5)))

# %% near_channels_of_a_radio: RuntimeError
raise RuntimeError("expected input to have 3 channels, but got 1 channel: mono broadcast")

# %% near_channels_of_an_image: ValueError
red, green, blue = Image.new("L", (2, 2)).split()

# %% near_channels_of_a_figure: ValueError
height, width, channels = np.zeros((4, 4)).shape

# %% near_expected_two_dimensions: ValueError
LinearRegression().fit([1.0, 2.0], [1.0, 2.0])

# %% near_expected_scaled_features: ValueError
StandardScaler().fit([[1.0, 2.0]]).transform([[1.0, 2.0, 3.0]])

# %% near_expected_four_dimensions: ValueError
points = np.zeros((3, 2))
if points.ndim != 4:
    raise ValueError(f"expected 4D input (got {points.ndim}D input) for the time machine")

# %% near_expected_scalar_type: TypeError
raise TypeError("expected scalar type Price but found Currency in column 'total'")

# %% near_expected_scalar_in_schema: ValueError
raise ValueError("schema: expected scalar type Float but found Text")

# %% near_input_type_of_a_keyboard: RuntimeError
raise RuntimeError("Input type (Dvorak) and layout type (Qwerty) should be the same")

# %% near_dtype_of_an_array: _UFuncNoLoopError
np.array(["a"]) * 2.0

# %% near_half_type_of_numpy: TypeError
np.zeros(2, dtype="half-float")

# %% near_contiguous_of_numpy: ValueError
np.arange(9)[::2].view("int16")

# %% near_half_implemented: NotImplementedError
raise NotImplementedError("'refund' not implemented for 'Half' price tickets")

# %% near_not_implemented_for_long: NotImplementedError
raise NotImplementedError("delivery not implemented for 'Long' parcels")

# %% near_cannot_multiply: RuntimeError
raise RuntimeError("mat1 and mat2 are both rugs: the shop sells no carpets")

# %% near_one_value_of_a_user: ValueError
samples = [3.0]
if len(samples) < 2:
    raise ValueError(f"Expected more than 1 value to compare, got {len(samples)}")

# %% near_one_value_per_channel_of_tv: ValueError
raise ValueError("Expected more than 1 value per channel when zapping, got input size 1")

# %% near_one_value_of_variance: StatisticsError
statistics.stdev([1.0])

# %% near_batch_size_of_cookies: ValueError
raise ValueError("Expected input batch_size (12) to match oven batch_size (9): burn risk")

# %% near_batch_size_of_cookies_in_a_book: AssertionError
trays, cookies = 2, 13
assert cookies % trays == 0, f"batch size {cookies} does not match {trays} trays"

# %% near_target_of_a_game: IndexError
raise IndexError("Target 3 is out of bounds: the arrow missed")

# %% near_target_of_an_array: IndexError
scores = np.zeros((4, 3))
scores[np.arange(4), [0, 1, 3, 2]]

# %% near_target_size_of_sales: ValueError
raise ValueError("Using a target size (1000) that is different to the input size (800): sell more")

# %% near_class_labels_of_sklearn: ValueError
SGDClassifier().partial_fit([[1.0]], [7], classes=[0, 1])

# %% near_index_of_a_book: IndexError
pages = ["a", "b"]
def find(index):
    if index >= len(pages):
        raise IndexError("index out of range in self-help section")
    return pages[index]
find(9)

# %% near_assertion_of_labels: AssertionError
labels = ["ant", "bee"]
assert "wasp" in labels, "Assertion `t >= 0 && t < n_classes` is what the old code said"

# %% near_element_of_chemistry: RuntimeError
raise RuntimeError("element 0 of the table does not require a permit and does not have a label")

# %% near_backward_of_a_car: RuntimeError
raise RuntimeError("Trying to backward into the garage a second time: it is full")

# %% near_graph_of_sales: TypeError
def draw(sales):
    return sales
draw([1, 2], retain_graph=True)

# %% near_leaf_of_a_tree: RuntimeError
raise RuntimeError("a leaf of that tree is being used by a caterpillar: in-place pruning failed")

# %% near_inplace_pandas: ValueError
fixed = np.arange(3)
fixed.setflags(write=False)
fixed += 1

# %% near_modified_while_sorted: ValueError
numbers = [3, 1, 2]
def touch(value):
    numbers.append(value)
    return value
numbers.sort(key=touch)

# %% near_numpy_call_of_a_list: AttributeError
[1, 2].numpy()

# %% near_detach_of_a_train: AttributeError
class Wagon:
    pass
Wagon().detach()

# %% near_gradient_of_a_hill: TypeError
def climb(gradient):
    return gradient
climb(requires_grad=True)

# %% near_grad_of_a_school: AttributeError
class Student:
    pass
Student().grad

# %% near_unused_parameters_of_a_call: RuntimeError
raise RuntimeError("Expected to have finished reduction in the prior sale before the new one")

# %% near_nan_of_sklearn: ValueError
StandardScaler().fit([[float("inf")]])

# %% near_nan_to_integer: ValueError
int(math.nan)

# %% near_nan_in_a_price: ValueError
price = float("nan")
if math.isnan(price):
    raise ValueError("the price of item 7 is nan: the supplier left it out")

# %% near_loss_of_luggage: RuntimeError
raise RuntimeError("loss is nan kilograms: the luggage was never weighed")

# %% near_loss_of_a_shop: AssertionError
loss = -3
assert loss > 0, "Loss is not finite enough for the tax office"

# %% near_nan_json: ValueError
json.dumps({"loss": math.nan}, allow_nan=False)

# %% near_port_of_a_web_server: OSError
with socketserver.TCPServer(("127.0.0.1", 0), None) as first:
    http.server.HTTPServer(first.server_address, None)

# %% near_port_of_a_socket: OSError
with socket.socket() as one, socket.socket() as two:
    one.bind(("127.0.0.1", 0))
    one.listen()
    two.bind(one.getsockname())

# %% near_port_of_a_ship: RuntimeError
raise RuntimeError("The server socket has failed to listen: the harbour's port is closed")

# %% near_address_of_a_letter: ValueError
raise ValueError("Address already in use by another customer")

# %% near_connection_refused: ConnectionRefusedError
with socket.socket() as idle, socket.socket() as client:
    idle.bind(("127.0.0.1", 0))
    client.connect(idle.getsockname())

# %% near_connection_reset: ConnectionResetError
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        client.recv(1)

# %% near_connection_broken: BrokenPipeError
one, two = socket.socketpair()
with one:
    two.close()
    one.sendall(b"x")

# %% near_pipe_broken: BrokenPipeError
reader, writer = os.pipe()
os.close(reader)
try:
    os.write(writer, b"x")
finally:
    os.close(writer)

# %% near_connection_of_trains: RuntimeError
raise RuntimeError("Connection closed by peer: the next train leaves at nine")

# %% near_host_that_is_no_number: gaierror
socket.getaddrinfo("MASTER_ADDR", 29500, flags=socket.AI_NUMERICHOST)

# %% near_certificate_of_a_company: SSLError
ssl.create_default_context(cadata="no certificate")

# %% near_timeout_of_a_question: TimeoutError
raise TimeoutError("no answer within 1800 seconds: the shop is closed")

# %% near_timeout_of_a_wait: TimeoutError
Future().result(timeout=0.01)

# %% near_rank_of_an_officer: ValueError
ranks = ["captain", "major"]
ranks.index("MASTER_ADDR")

# %% near_master_address: KeyError
os.environ["MASTER_ADDRESS_OF_NOBODY"]

# %% near_world_size_of_a_globe: ValueError
raise ValueError("world_size must be at least 40 cm: the stand is that wide")

# %% near_process_group_of_a_school: ValueError
raise ValueError("Default process group has not been assigned to room 3")

# %% near_group_of_a_shell: ProcessLookupError
os.killpg(2**22 - 1, 0)

# %% near_attribute_of_own_module: AttributeError
torchlight = types.ModuleType("torchlight")
torchlight.compile

# %% near_attribute_of_json: AttributeError
json.read("a.json")

# %% near_operator_of_a_phone: RuntimeError
raise RuntimeError("operator mobile::nms does not exist in this country")

# %% near_operator_of_python: AttributeError
import operator
operator.nms

# %% near_import_of_a_name: ImportError
from os import OptimizerState

# %% near_torch_like_package: ModuleNotFoundError
import torchvision_of_nobody

# %% near_numpy_not_available_of_a_shop: RuntimeError
raise RuntimeError("Numpy (the toy) is not available: sold out")

# %% near_empty_parameter_list: ValueError
recipes = []
if not recipes:
    raise ValueError("the optimizer of routes got an empty list of stops")

# %% near_parameter_list_of_sklearn: InvalidParameterError
SGDClassifier(learning_rate="fast").fit([[1.0], [2.0]], [0, 1])

# %% near_learning_rate_of_a_school: ValueError
raise ValueError("Invalid learning rate of pupils: -3 lessons a week")

# %% near_scheduler_of_meetings: RuntimeError
raise RuntimeError("scheduler.step() of meeting 3 was called before meeting 2 was over")

# %% near_initial_rate_of_a_bank: KeyError
loan = {"rate": 0.03}
loan["initial_lr"]

# %% near_closure_of_a_road: TypeError
def step(closure):
    return closure
step()

# %% near_warning_then_file: FileNotFoundError
print("UserWarning: Detected call of `lr_scheduler.step()` before `optimizer.step()`.")
open("results/summary.csv")

# %% near_nan_log_then_value: ValueError
for epoch, loss in enumerate([0.7, float("nan")]):
    print(f"epoch {epoch} loss {loss}")
int("last")

# %% near_state_dict_report_then_type: TypeError
print("Missing key(s) in state_dict: none. Unexpected key(s) in state_dict: none.")
len(5)

# %% near_worker_log_then_index: IndexError
print("WARNING DataLoader worker (pid 41) exited unexpectedly, restarted")
[][0]

# %% near_handled_sizes_then_name: NameError
try:
    nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 2), "bias": torch.ones(2)})
except RuntimeError:
    traceback.print_exc()
    print("these weights do not fit: starting from scratch")
print(best_score)

# %% near_handled_missing_file_then_key: KeyError
try:
    torch.load("last.pt")
except FileNotFoundError as error:
    print(f"no checkpoint to resume from ({error}), starting anew")
{"train": 1}["validation"]

# %% near_handled_devices_then_value: ValueError
print("RuntimeError: Expected all tensors to be on the same device, but found at least two devices")
print("fixed in commit 3f2a, running again")
max([])

# %% near_handled_port_then_assertion: AssertionError
print("[W socket.cpp] The server socket has failed to bind, port 29500: EADDRINUSE. Retrying.")
print("[I socket.cpp] The server socket has started to listen on 29501.")
assert sum([0.5, 0.4]) == 1, "the shares do not sum to one"

# %% near_docstring_of_errors: TypeError
def helper():
    """RuntimeError: CUDA error: device-side assert triggered."""
    return None + 1  # RuntimeError: CUDA out of memory
helper()

# %% near_variable_named_like_an_error: ZeroDivisionError
cuda_out_of_memory = 0
size_mismatch = 1 / cuda_out_of_memory  # size mismatch for fc.weight

# %% near_test_of_an_error_text: AssertionError
message = "shape '[4, 2]' is invalid"
assert message == "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"

# %% near_search_for_an_error: ValueError
lines = ["epoch 1", "epoch 2"]
lines.index("RuntimeError: expected scalar type Float but found Half")

# %% near_key_is_an_error: KeyError
cures = {"oom": "a smaller batch"}
cures["CUDA out of memory. Tried to allocate 20.00 MiB"]

# %% near_argument_like_an_error: SystemExit
parser = argparse.ArgumentParser()
parser.add_argument("--device", choices=["cpu", "cuda"])
parser.parse_args(["--device", "Torch not compiled with CUDA enabled"])

# %% near_image_of_a_folder: IsADirectoryError
os.mkdir("album.png")
Image.open("album.png")

# %% near_crop_of_a_field: ValueError
raise ValueError("Required crop size (9, 9) is larger than the field of wheat")

# %% near_found_no_valid_ticket: RuntimeError
raise RuntimeError("Found no valid ticket for the classes first, second")

# %% near_class_folder_of_a_school: FileNotFoundError
raise FileNotFoundError("Couldn't find any class in the school for pupils of age 3")

# %% near_no_samples_of_a_shop: ValueError
raise ValueError("num_samples should be a positive integer: the tea shop gave num_samples=0 cups")

# %% near_shape_mismatch_numpy: ValueError
np.zeros(3)[[0, 1]] = [1.0, 2.0, 3.0]

# %% near_shape_mismatch_of_a_mask: IndexError
np.zeros((2, 2))[np.zeros((3, 3), dtype=bool)]

# %% near_tensor_size_words: RuntimeError
raise RuntimeError("The size of tent A (3) must match the size of the group (4)")

# %% near_object_of_a_tensor_shop: TypeError
class Tensor:
    pass
Tensor() + 1

# %% near_none_has_no_attribute_shape: AttributeError
frame = None
frame.shape

# %% near_unpack_none_of_a_batch: TypeError
images, labels = None

# %% near_recursion_of_own_folders: RecursionError
def walk(folder):
    return walk(folder)
walk("data")
