import io

import h5py
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler

def photo(mode="RGB", size=(4, 4)):
    return Image.new(mode, size)

# %% numpy_broadcast: ValueError
np.ones((3, 4)) + np.ones((2, 4))

# %% numpy_matmul: ValueError
np.ones((3, 4)) @ np.ones((3, 4))

# %% numpy_reshape: ValueError
np.arange(10).reshape(3, 4)

# %% numpy_ragged: ValueError
np.array([[1, 2], [3]])

# %% numpy_truth: ValueError
if np.array([1, 2]) == np.array([1, 2]):
    pass

# %% numpy_index: IndexError
np.zeros((3, 4))[5]

# %% numpy_too_many_indices: IndexError
np.zeros(3)[0, 1]

# %% numpy_mask: IndexError
np.zeros(3)[np.array([True, False])]

# %% numpy_index_of_float: IndexError
np.zeros(3)[1.5]

# %% numpy_axis: AxisError
np.zeros(3).sum(axis=2)

# %% numpy_dtype: TypeError
np.zeros(3, dtype="float33")

# %% numpy_cast: _UFuncOutputCastingError
totals = np.zeros(3, dtype=int)
totals += 0.5

# %% numpy_read_only: ValueError
fixed = np.zeros(3)
fixed.flags.writeable = False
fixed[0] = 1

# %% numpy_singular: LinAlgError
np.linalg.inv(np.zeros((2, 2)))

# %% numpy_not_square: LinAlgError
np.linalg.eig(np.zeros((2, 3)))

# %% numpy_not_positive: LinAlgError
np.linalg.cholesky(-np.eye(2))

# %% numpy_einsum: ValueError
np.einsum("ij,jk->ik", np.ones((2, 3)), np.ones((4, 5)))

# %% numpy_choice: ValueError
np.random.default_rng(0).choice(3, size=5, replace=False)

# %% numpy_probabilities: ValueError
np.random.default_rng(0).choice(2, p=[0.5, 0.6])

# %% numpy_seed: ValueError
np.random.default_rng(-1)

# %% numpy_of_one: TypeError
float(np.zeros(3))

# %% numpy_huge: _ArrayMemoryError
np.zeros((10**6, 10**6, 10**6), dtype="int8")

# %% numpy_negative_size: ValueError
np.zeros(-1)

# %% numpy_uint8: OverflowError
np.array([300], dtype=np.uint8)

# %% numpy_text_number: ValueError
np.array(["1", "two"]).astype(float)

# %% numpy_attribute_gone: AttributeError
np.float_(1)

# %% numpy_object_file: ValueError
np.save("a.npy", np.array([{}]))
np.load("a.npy")

# %% numpy_npz_key: KeyError
np.savez("a.npz", x=np.zeros(2))
with np.load("a.npz") as arrays:
    arrays["y"]

# %% numpy_text_columns: ValueError
np.loadtxt(io.StringIO("1 2\n3"))

# %% numpy_buffer: ValueError
np.frombuffer(b"abc", dtype="<i4")

# %% numpy_int_power: ValueError
np.arange(3) ** -1

# %% numpy_argmax_of_none: ValueError
np.array([]).argmax()

# %% numpy_raised_divide: FloatingPointError
with np.errstate(divide="raise"):
    np.ones(1) / 0

# %% pillow_resize: ValueError
photo().resize((0, 0))

# %% pillow_mode: ValueError
photo().convert("XYZ")

# %% pillow_format: KeyError
photo().save(io.BytesIO(), format="BMPX")

# %% pillow_extension: ValueError
photo().save("photo.abc")

# %% pillow_alpha_in_jpeg: OSError
photo("RGBA").save("photo.jpg")

# %% pillow_merge: ValueError
Image.merge("RGB", [photo("L"), photo("L")])

# %% pillow_paste: ValueError
photo().paste(photo(size=(2, 2)), (0, 0, 9, 9))

# %% pillow_blend: ValueError
Image.blend(photo(), photo(size=(2, 2)), 0.5)

# %% pillow_pixel: IndexError
photo().getpixel((9, 9))

# %% pillow_colour: ValueError
ImageDraw.Draw(photo()).line([0, 0, 1, 1], fill="greenish")

# %% pillow_font: OSError
ImageFont.truetype("no-such-font.ttf")

# %% pillow_array: TypeError
Image.fromarray(np.zeros((3, 4, 5), dtype="float64"))

# %% pillow_closed: ValueError
picture = photo()
picture.close()
picture.load()

# %% pillow_frame: EOFError
photo().seek(3)

# %% figure_lengths: ValueError
Figure().subplots().plot([1, 2, 3], [1, 2])

# %% figure_colour: ValueError
to_rgba("greenish")

# %% figure_keyword: AttributeError
Figure().subplots().plot([1], [2], thickness=3)

# %% figure_image: TypeError
Figure().subplots().imshow(np.zeros((2, 2, 7)))

# %% figure_format: ValueError
Figure().savefig("loss.abc")

# %% figure_grid: ValueError
Figure().add_subplot(2, 2, 5)

# %% sklearn_not_fitted: NotFittedError
LinearRegression().predict([[1.0]])

# %% sklearn_lengths: ValueError
LinearRegression().fit([[1.0], [2.0]], [1.0])

# %% sklearn_nan: ValueError
LinearRegression().fit([[np.nan]], [1.0])

# %% sklearn_text: ValueError
StandardScaler().fit([["small"], ["large"]])

# %% sklearn_one_class: ValueError
LogisticRegression().fit([[1.0], [2.0]], [0, 0])

# %% sklearn_features: ValueError
LinearRegression().fit([[1.0, 2.0]], [1.0]).predict([[1.0]])

# %% sklearn_label: ValueError
LabelEncoder().fit(["ant", "bee"]).transform(["wasp"])

# %% sklearn_category: ValueError
OneHotEncoder().fit([["ant"]]).transform([["wasp"]])

# %% sklearn_parameter: InvalidParameterError
RandomForestClassifier(n_estimators=0).fit([[1.0]], [0])

# %% sklearn_grid: ValueError
GridSearchCV(LogisticRegression(), {"D": [1]}).fit([[1.0]] * 10, [0, 1] * 5)

# %% sklearn_components: ValueError
PCA(n_components=5).fit(np.ones((3, 2)))

# %% sklearn_folds: ValueError
next(KFold(5).split([1, 2]))

# %% sklearn_strata: ValueError
train_test_split([1, 2, 3], stratify=[0, 0, 1])

# %% sklearn_members: ValueError
next(StratifiedKFold(3).split([1, 2], [0, 1]))

# %% sklearn_neighbours: ValueError
KNeighborsClassifier(5).fit([[1.0], [2.0]], [0, 1]).predict([[1.0]])

# %% sklearn_mixed_targets: ValueError
accuracy_score([0, 1], [0.2, 0.7])

# %% sklearn_multiclass_auc: ValueError
roc_auc_score([0, 1, 2], [0.1, 0.2, 0.3])

# %% sklearn_pipeline: TypeError
Pipeline([("a", object()), ("b", LinearRegression())]).fit([[1.0]], [1.0])

# %% hdf5_missing: FileNotFoundError
h5py.File("weights.h5", "r")

# %% hdf5_signature: OSError
with open("weights.h5", "wb") as out:
    out.write(b"no such format" * 99)
h5py.File("weights.h5", "r")

# %% hdf5_key: KeyError
with h5py.File("weights.h5", "w") as store:
    store["layer/kernel"]

# %% hdf5_twice: OSError
with h5py.File("weights.h5", "w") as store:
    store["a"] = 1
    store["a"] = 2

# %% hdf5_shape: TypeError
with h5py.File("weights.h5", "w") as store:
    store.create_dataset("a", (2, 2))[...] = np.zeros((3, 3))

# %% hdf5_objects: TypeError
with h5py.File("weights.h5", "w") as store:
    store["a"] = np.array([{}])

# %% hdf5_open_twice: OSError
with h5py.File("weights.h5", "w"):
    h5py.File("weights.h5", "w")
