"""An error → its cause and its cure, from what is known: its text, the machine, a live program."""

from luthier.explanations.catalogue import explain as explain
from luthier.explanations.catalogue import labels as labels
from luthier.explanations.printed import errors_in as errors_in
from luthier.explanations.printed import is_library as is_library
from luthier.explanations.values import Case as Case
from luthier.explanations.values import Explanation as Explanation
from luthier.explanations.values import Fact as Fact
from luthier.explanations.values import Frame as Frame
from luthier.explanations.values import Here as Here
from luthier.explanations.values import ModuleFacts as ModuleFacts
from luthier.explanations.values import ObjectFacts as ObjectFacts
from luthier.explanations.values import Raised as Raised
from luthier.explanations.values import TensorFacts as TensorFacts
