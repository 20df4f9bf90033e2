import math
from collections import namedtuple
from dataclasses import dataclass, field
from enum import Enum

# %% key_missing: KeyError
ages = {"ann": 31}
print(ages["bob"])

# %% key_of_a_tuple: KeyError
{(0, 1): "a"}[(1, 0)]

# %% key_popped_twice: KeyError
settings = {"lr": 0.1}
settings.pop("lr")
settings.pop("lr")

# %% set_remove: KeyError
{1, 2}.remove(3)

# %% list_index: IndexError
[1, 2, 3][5]

# %% pop_from_empty: IndexError
[].pop()

# %% string_index: IndexError
"abc"[7]

# %% none_has_no_attribute: AttributeError
import re
re.match("a", "b").group()

# %% attribute_misspelt: AttributeError
[1, 2].push(3)

# %% attribute_of_a_slot: AttributeError
class Point:
    __slots__ = ("x",)
Point().y = 1

# %% property_without_setter: AttributeError
class Box:
    @property
    def size(self):
        return 1
Box().size = 2

# %% namedtuple_is_frozen: AttributeError
namedtuple("Pair", "a b")(1, 2).a = 3

# %% name_undefined: NameError
print(undefined_thing)

# %% local_before_assignment: UnboundLocalError
total = 0
def add(x):
    total += x
add(1)

# %% sum_of_int_and_str: TypeError
1 + "1"

# %% str_joined_with_int: TypeError
"epoch " + 3

# %% call_of_a_number: TypeError
(5)()

# %% none_is_not_iterable: TypeError
for x in None:
    pass

# %% none_is_not_subscriptable: TypeError
None["x"]

# %% unexpected_keyword: TypeError
def train(epochs):
    return epochs
train(epochs=1, colour="red")

# %% positional_missing: TypeError
def fit(model, data):
    return model, data
fit(1)

# %% too_many_positional: TypeError
def once():
    return 1
once(1, 2)

# %% keyword_given_twice: TypeError
def scale(x, by):
    return x * by
scale(1, 2, by=3)

# %% unhashable_list: TypeError
{[1, 2]: 3}

# %% unhashable_dict_in_set: TypeError
{{}, 1}

# %% abstract_class: TypeError
from abc import ABC, abstractmethod
class Reader(ABC):
    @abstractmethod
    def read(self): ...
Reader()

# %% order_of_unlike: TypeError
sorted([3, "a", None])

# %% tuple_is_frozen: TypeError
(1, 2)[0] = 3

# %% unpack_too_many: ValueError
a, b = [1, 2, 3]

# %% unpack_too_few: ValueError
a, b, c = (1, 2)

# %% int_of_text: ValueError
int("twelve")

# %% float_of_text: ValueError
float("1,5")

# %% list_remove: ValueError
[1, 2].remove(3)

# %% range_step_zero: ValueError
range(1, 5, 0)

# %% zip_strict: ValueError
list(zip([1, 2], [1], strict=True))

# %% square_root_of_negative: ValueError
math.sqrt(-1)

# %% division_by_zero: ZeroDivisionError
sum([]) / len([])

# %% modulo_by_zero: ZeroDivisionError
5 % 0

# %% power_too_large: OverflowError
2.0 ** 5000

# %% float_of_infinity: OverflowError
int(float("inf"))

# %% recursion_without_end: RecursionError
def deeper(n):
    return deeper(n + 1)
deeper(0)

# %% dict_changed_while_read: RuntimeError
seen = {"a": 1}
for key in seen:
    seen[key + "x"] = 1

# %% generator_raises_stop: RuntimeError
def broken():
    yield next(iter([]))
list(broken())

# %% iterator_at_its_end: StopIteration
next(iter([]))

# %% assertion_with_text: AssertionError
batch = 3
assert batch == 4, f"expected four, got {batch}"

# %% assertion_bare: AssertionError
assert [] == [1]

# %% not_implemented: NotImplementedError
class Shape:
    def area(self):
        raise NotImplementedError
Shape().area()

# %% syntax_unclosed: SyntaxError
print("a"

# %% syntax_colon: SyntaxError
if True
    pass

# %% indentation: IndentationError
def f():
return 1

# %% tabs_and_spaces: TabError
if True:
        a = 1
	b = 2

# %% module_missing: ModuleNotFoundError
import a_module_that_nobody_wrote

# %% name_not_in_module: ImportError
from collections import OrderedDictionary

# %% relative_import_in_script: ImportError
from . import helpers

# %% submodule_of_a_module: ModuleNotFoundError
import json.parser

# %% dataclass_frozen: FrozenInstanceError
@dataclass(frozen=True)
class Config:
    lr: float = 0.1
Config().lr = 0.2

# %% dataclass_mutable_default: ValueError
@dataclass
class Options:
    names: list = []

# %% dataclass_default_order: TypeError
@dataclass
class Recipe:
    epochs: int = 1
    model: str

# %% dataclass_unknown_field: TypeError
@dataclass
class Knobs:
    lr: float = 0.1
Knobs(learning_rate=0.2)

# %% enum_value: ValueError
class Mode(Enum):
    TRAIN = "train"
Mode("test")

# %% enum_name: KeyError
class Stage(Enum):
    FIRST = 1
Stage["SECOND"]

# %% group_of_exceptions: ExceptionGroup
raise ExceptionGroup("two went wrong", [ValueError("first"), TypeError("second")])

# %% raised_from_another: RuntimeError
try:
    {}["batch"]
except KeyError as error:
    raise RuntimeError("the settings are not complete") from error

# %% raised_while_handling: NameError
try:
    1 / 0
except ZeroDivisionError:
    print(not_defined)

# %% error_with_a_note: ValueError
error = ValueError("bad row")
error.add_note("in line 7 of people.csv")
raise error

# %% interrupted: KeyboardInterrupt
raise KeyboardInterrupt

# %% ended_by_itself: SystemExit
raise SystemExit("nothing to do")

# %% raised_what_is_no_error: TypeError
raise "a text"

# %% context_manager_missing: TypeError
with 5:
    pass

# %% metaclass_conflict: TypeError
class A(type): ...
class B(type): ...
class C(metaclass=A): ...
class D(metaclass=B): ...
class E(C, D): ...

# %% method_order: TypeError
class X: ...
class Y(X): ...
class Z(X, Y): ...

# %% format_width: ValueError
"{:d}".format(1.5)

# %% format_key: KeyError
"{name} is {age}".format(name="Ann")

# %% percent_format: TypeError
"%d images" % "many"

# %% bytes_and_text: TypeError
b"abc" + "def"

# %% await_outside: TypeError
import asyncio
async def main():
    await 5
asyncio.run(main())

# %% super_without_init: AttributeError
class Parent:
    def __init__(self):
        self.items = []
class Child(Parent):
    def __init__(self):
        self.items.append(1)
Child()
