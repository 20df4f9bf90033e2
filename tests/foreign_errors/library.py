import argparse
import ast
import asyncio
import base64
import binascii
import configparser
import csv
import datetime
import decimal
import fcntl
import gzip
import http.server
import io
import json
import lzma
import os
import pathlib
import pickle
import queue
import shutil
import socket
import sqlite3
import ssl
import statistics
import struct
import subprocess
import sys
import tarfile
import threading
import tomllib
import urllib.request
import uuid
import xml.etree.ElementTree
import zipfile
import zlib

class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503 if "busy" in self.path else 404)
    def log_message(self, *_):
        pass

# Through no proxy that the environment names.
fetch = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

def serve_once():
    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    server.timeout = 5  # seconds, in which nobody came
    def answer():
        server.handle_request()
        server.server_close()
    thread = threading.Thread(target=answer)
    thread.start()
    return thread, f"http://127.0.0.1:{server.server_port}"

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

# %% json_trailing_comma: JSONDecodeError
json.loads('{"lr": 0.1,}')

# %% json_empty: JSONDecodeError
json.loads("")

# %% json_extra_data: JSONDecodeError
json.loads('{"a": 1}\n{"a": 2}')

# %% json_of_a_set: TypeError
json.dumps({"classes": {"ant", "bee"}})

# %% json_of_a_cycle: ValueError
a = []
a.append(a)
json.dumps(a)

# %% csv_field_limit: Error
list(csv.reader(["x" * 200_000]))

# %% csv_column: KeyError
for row in csv.DictReader(["path,label", "a.png,ant"]):
    row["split"]

# %% toml_syntax: TOMLDecodeError
tomllib.loads("lr = ")

# %% ini_section: NoSectionError
configparser.ConfigParser().get("train", "lr")

# %% ini_header: MissingSectionHeaderError
configparser.ConfigParser().read_string("lr = 1")

# %% ini_twice: DuplicateOptionError
configparser.ConfigParser().read_string("[a]\nx = 1\nx = 2")

# %% xml_tag: ParseError
xml.etree.ElementTree.fromstring("<a><b></a>")

# %% literal_of_a_call: ValueError
ast.literal_eval("open('x')")

# %% argument_unknown: SystemExit
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.parse_args(["--learning-rate", "0.1"])

# %% argument_of_a_type: SystemExit
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.parse_args(["--epochs", "ten"])

# %% argument_twice: ArgumentError
parser = argparse.ArgumentParser()
parser.add_argument("--lr")
parser.add_argument("--lr")

# %% sqlite_table: OperationalError
base = sqlite3.connect(":memory:")
try:
    base.execute("select * from runs")
finally:
    base.close()

# %% sqlite_unique: IntegrityError
base = sqlite3.connect(":memory:")
try:
    base.execute("create table runs (id integer primary key)")
    base.executemany("insert into runs values (?)", [(1,), (1,)])
finally:
    base.close()

# %% near_sqlite_locked: OperationalError
one, two = (sqlite3.connect("runs.db", timeout=0) for _ in range(2))
try:
    one.execute("begin exclusive")
    two.execute("create table runs (id integer)")
finally:
    one.close()
    two.close()

# %% sqlite_no_database: DatabaseError
pathlib.Path("runs.db").write_bytes(b"this is no database" * 99)
base = sqlite3.connect("runs.db")
try:
    base.execute("select 1 from runs")
finally:
    base.close()

# %% sqlite_bindings: ProgrammingError
base = sqlite3.connect(":memory:")
try:
    base.execute("select ?, ?", (1,))
finally:
    base.close()

# %% command_failed: CalledProcessError
subprocess.run([sys.executable, "-Sc", "raise SystemExit(3)"], check=True)

# %% near_command_killed: CalledProcessError
subprocess.run([sys.executable, "-Sc", "import os; os.kill(os.getpid(), 9)"], check=True)

# %% command_missing: FileNotFoundError
subprocess.run(["a-program-that-nobody-wrote", "--version"])

# %% command_too_slow: TimeoutExpired
subprocess.run([sys.executable, "-Sc", "import signal; signal.pause()"], timeout=0.05)

# %% folder_listed: FileNotFoundError
os.listdir("photos/train")

# %% folder_there_already: FileExistsError
os.mkdir("out")
os.mkdir("out")

# %% folder_not_empty: OSError
os.makedirs("out/run")
os.rmdir("out")

# %% folder_opened: IsADirectoryError
os.mkdir("out")
open("out")

# %% file_as_folder: NotADirectoryError
pathlib.Path("notes").touch()
open("notes/today.txt")

# %% name_too_long: OSError
open("x" * 300)

# %% copied_to_itself: SameFileError
pathlib.Path("a.txt").touch()
shutil.copy("a.txt", "a.txt")

# %% null_in_path: ValueError
open("a\0b")

# %% mode_of_open: ValueError
open("a.txt", "rwx")

# %% file_closed: ValueError
with open("a.txt", "w") as out:
    pass
out.write("late")

# %% file_not_for_reading: UnsupportedOperation
with open("a.txt", "w") as out:
    out.read()

# %% bytes_to_text_file: TypeError
with open("a.txt", "w") as out:
    out.write(b"abc")

# %% path_outside: ValueError
pathlib.Path("/data/a.png").relative_to("/photos")

# %% utf8_decode: UnicodeDecodeError
"naïve".encode("latin-1").decode("utf-8")

# %% ascii_encode: UnicodeEncodeError
"größe".encode("ascii")

# %% encoding_unknown: LookupError
"abc".encode("utf-9")

# %% csv_in_latin: UnicodeDecodeError
pathlib.Path("people.csv").write_bytes("Zoë,31\n".encode("latin-1"))
with open("people.csv", encoding="utf-8") as lines:
    list(csv.reader(lines))

# %% gzip_of_text: BadGzipFile
gzip.decompress(b"plain text")

# %% near_gzip_cut: EOFError
gzip.decompress(gzip.compress(b"abc" * 999)[:-9])

# %% zlib_header: error
zlib.decompress(b"plain text")

# %% lzma_format: LZMAError
lzma.decompress(b"plain text")

# %% tar_of_text: ReadError
pathlib.Path("photos.tar").write_text("plain text")
tarfile.open("photos.tar")

# %% tar_member: KeyError
with tarfile.open("photos.tar", "w") as archive:
    archive.getmember("a.png")

# %% zip_member: KeyError
with zipfile.ZipFile(io.BytesIO(), "w") as archive:
    archive.read("a.png")

# %% zip_password: RuntimeError
data = io.BytesIO()
with zipfile.ZipFile(data, "w") as archive:
    archive.writestr("a.txt", "abc")
raw = bytearray(data.getvalue())
for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
    raw[raw.index(mark) + at] |= 1
zipfile.ZipFile(io.BytesIO(raw)).read("a.txt")

# %% base64_padding: Error
base64.b64decode("abc")

# %% hexadecimal: Error
binascii.unhexlify("xyz")

# %% struct_size: error
struct.unpack("<I", b"ab")

# %% struct_range: error
struct.pack("<B", 300)

# %% date_of_text: ValueError
datetime.datetime.strptime("2024-13-01", "%Y-%m-%d")

# %% date_range: ValueError
datetime.date(2023, 2, 29)

# %% naive_and_aware: TypeError
datetime.datetime(2024, 1, 1) - datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)

# %% decimal_of_text: InvalidOperation
decimal.Decimal("one")

# %% mean_of_nothing: StatisticsError
statistics.mean([])

# %% uuid_of_text: ValueError
uuid.UUID("1234")

# %% near_pickle_of_lambda: PicklingError
pickle.dumps({"key": lambda row: row["label"]}, protocol=2)

# %% pickle_of_generator: TypeError
pickle.dumps(x for x in "abc")

# %% pickle_of_lock: TypeError
pickle.dumps({"lock": threading.Lock()})

# %% pickle_of_socket: TypeError
with socket.socket() as connection:
    pickle.dumps(connection)

# %% near_pickle_of_text: UnpicklingError
pickle.loads(b"hello world")

# %% queue_empty: Empty
queue.Queue().get_nowait()

# %% queue_full: Full
waiting = queue.Queue(1)
waiting.put(1)
waiting.put_nowait(2)

# %% thread_twice: RuntimeError
thread = threading.Thread(target=int)
thread.start()
thread.join()
thread.start()

# %% lock_not_held: RuntimeError
threading.Lock().release()

# %% barrier_broken: BrokenBarrierError
threading.Barrier(2).wait(timeout=0.01)

# %% loop_inside_loop: RuntimeError
async def main():
    inner = asyncio.sleep(0)
    try:
        asyncio.run(inner)
    finally:
        inner.close()
asyncio.run(main())

# %% task_cancelled: CancelledError
async def main():
    task = asyncio.create_task(asyncio.sleep(9))
    await asyncio.sleep(0)
    task.cancel()
    await task
asyncio.run(main())

# %% task_too_slow: TimeoutError
async def main():
    await asyncio.wait_for(asyncio.Event().wait(), 0.01)
asyncio.run(main())

# %% no_running_loop: RuntimeError
asyncio.get_running_loop()

# %% near_web_refused: URLError
fetch(f"http://127.0.0.1:{free_port()}/", timeout=5)

# %% web_missing: HTTPError
thread, address = serve_once()
try:
    fetch(address + "/weights.bin", timeout=5)
except urllib.error.HTTPError as error:
    error.close()
    raise
finally:
    thread.join()

# %% web_busy: HTTPError
thread, address = serve_once()
try:
    fetch(address + "/busy", timeout=5)
except urllib.error.HTTPError as error:
    error.close()
    raise
finally:
    thread.join()

# %% web_address: ValueError
urllib.request.urlopen("example.org/weights")

# %% web_scheme: URLError
urllib.request.urlopen("s9://bucket/weights")

# %% tls_to_plain: SSLError
one, two = socket.socketpair()
with one, two:
    two.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    two.shutdown(socket.SHUT_WR)
    context = ssl.create_default_context()
    with context.wrap_socket(one, server_hostname="localhost") as secure:
        secure.read()

# %% certificate_missing: FileNotFoundError
ssl.create_default_context(cafile="company.pem")

# %% receive_too_slow: TimeoutError
one, two = socket.socketpair()
with one, two:
    one.settimeout(0.01)
    one.recv(1)

# %% port_out_of_range: OverflowError
with socket.socket() as server:
    server.bind(("127.0.0.1", 99999))

# %% process_unknown: ProcessLookupError
child = subprocess.Popen([sys.executable, "-Sc", ""])
child.wait()
os.kill(child.pid, 0)

# %% environment_missing: KeyError
os.environ["A_VARIABLE_THAT_NOBODY_SET"]

# %% file_lock_held: BlockingIOError
with open("run.lock", "w") as one, open("run.lock") as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)

# %% bad_descriptor: OSError
os.close(10**6)

# %% seek_of_a_pipe: OSError
one, two = os.pipe()
try:
    os.lseek(one, 0, os.SEEK_SET)
finally:
    os.close(one)
    os.close(two)
