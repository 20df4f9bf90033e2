import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

a = torch.arange(6.0)

# %% einsum_sizes: RuntimeError
torch.einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(4, 5))

# %% einsum_letters: RuntimeError
torch.einsum("ijk->ij", torch.ones(2, 3))

# %% einsum_output: RuntimeError
torch.einsum("ij->ijk", torch.ones(2, 3))

# %% view_size: RuntimeError
a.view(4, 2)

# %% reshape_size: RuntimeError
a.reshape(5, -1)

# %% view_two_unknown: RuntimeError
a.view(-1, -1)

# %% near_broadcast_sizes: RuntimeError
torch.ones(3) + torch.ones(4)

# %% expand_sizes: RuntimeError
torch.ones(3).expand(2, 4)

# %% near_cat_sizes: RuntimeError
torch.cat([torch.ones(2, 3), torch.ones(2, 4)], dim=0)

# %% cat_nothing: ValueError
torch.cat([])

# %% near_matmul_vectors: RuntimeError
torch.dot(torch.ones(3), torch.ones(4))

# %% near_batched_matmul: RuntimeError
torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 3, 4))

# %% dimension_out_of_range: IndexError
a.sum(dim=3)

# %% near_index_out_of_range: IndexError
a[10]

# %% too_many_indices: IndexError
a[0, 0]

# %% mask_shape: IndexError
a[torch.ones(4, dtype=torch.bool)]

# %% index_of_floats: IndexError
a[torch.ones(2)]

# %% index_of_a_scalar: IndexError
torch.tensor(3.0)[0]

# %% select_out_of_range: IndexError
torch.ones(2, 3).select(1, 7)

# %% narrow_out_of_range: RuntimeError
a.narrow(0, 4, 5)

# %% gather_dimensions: RuntimeError
torch.gather(torch.ones(2, 3), 0, torch.zeros(2, dtype=torch.long))

# %% near_scatter_out_of_range: RuntimeError
torch.zeros(3).scatter_(0, torch.tensor([5]), 1.0)

# %% split_sizes: RuntimeError
a.split([2, 2])

# %% chunk_of_none: RuntimeError
a.chunk(0)

# %% permute_twice: RuntimeError
torch.ones(2, 3).permute(0, 0)

# %% permute_few: RuntimeError
torch.ones(2, 3, 4).permute(0, 1)

# %% truth_of_many: RuntimeError
if a > 2:
    pass

# %% item_of_many: RuntimeError
a.item()

# %% float_of_many: ValueError
float(a)

# %% length_of_a_scalar: TypeError
len(torch.tensor(3.0))

# %% iteration_of_a_scalar: TypeError
for number in torch.tensor(3.0):
    pass

# %% ragged_lists: ValueError
torch.tensor([[1, 2], [3]])

# %% tensor_of_text: ValueError
torch.tensor(["ant", "bee"])

# %% near_tensor_of_none: RuntimeError
torch.tensor(None)

# %% tensor_too_large_number: RuntimeError
torch.tensor(300, dtype=torch.uint8).fill_(2**70)

# %% dtype_unknown: AttributeError
torch.zeros(2, dtype=torch.float12)

# %% dtype_as_text: TypeError
torch.zeros(2, dtype="float32")

# %% operation_unknown: AttributeError
a.flip_over()

# %% function_unknown: AttributeError
torch.add_up(a)

# %% argument_of_sum: TypeError
torch.sum("a")

# %% argument_unknown_to_zeros: TypeError
torch.zeros(2, colour="red")

# %% size_negative: RuntimeError
torch.zeros(-2)

# %% size_of_float: TypeError
torch.zeros(2.5)

# %% linspace_steps: RuntimeError
torch.linspace(0, 1, -3)

# %% range_of_nothing: RuntimeError
torch.arange(0, 5, 0)

# %% random_high: RuntimeError
torch.randint(5, 2, (3,))

# %% normal_negative: RuntimeError
torch.normal(0.0, -1.0, (3,))

# %% multinomial_negative: RuntimeError
torch.multinomial(torch.tensor([-1.0, 2.0]), 1)

# %% multinomial_too_many: RuntimeError
torch.multinomial(torch.ones(2), 5, replacement=False)

# %% topk_too_many: RuntimeError
a.topk(9)

# %% max_of_nothing: RuntimeError
torch.zeros(0).max()

# %% near_median_of_bools: NotImplementedError
torch.tensor([True, False]).median()

# %% mean_of_integers: RuntimeError
torch.arange(3).mean()

# %% subtract_bools: RuntimeError
torch.tensor([True]) - torch.tensor([False])

# %% negate_bools: RuntimeError
-torch.tensor([True])

# %% integer_division: ZeroDivisionError
torch.zeros(3).size(0) / 0

# %% integer_tensor_division: RuntimeError
torch.tensor(3) // torch.tensor(0)

# %% negative_power: RuntimeError
torch.arange(3) ** -1

# %% near_bitwise_of_floats: NotImplementedError
a & a

# %% clamp_of_nothing: RuntimeError
a.clamp()

# %% unique_dimension: IndexError
torch.unique(a, dim=4)

# %% near_one_hot_classes: RuntimeError
F.one_hot(torch.tensor([0, 5]), num_classes=3)

# %% numpy_step: ValueError
a[::-1]

# %% singular_inverse: _LinAlgError
torch.linalg.inv(torch.zeros(2, 2))

# %% singular_solve: _LinAlgError
torch.linalg.solve(torch.zeros(2, 2), torch.ones(2))

# %% not_square: RuntimeError
torch.linalg.det(torch.ones(2, 3))

# %% not_positive_definite: _LinAlgError
torch.linalg.cholesky(-torch.eye(2))

# %% norm_name: RuntimeError
torch.linalg.matrix_norm(torch.eye(2), ord="biggest")

# %% fft_length: RuntimeError
torch.fft.fft(a, n=0)

# %% fft_norm: RuntimeError
torch.fft.fft(a, norm="loud")

# %% stft_window: RuntimeError
torch.stft(a, n_fft=4, window=torch.ones(9), return_complex=True)

# %% near_complex_compare: NotImplementedError
torch.ones(2, dtype=torch.cfloat) < 1

# %% sparse_indices: RuntimeError
torch.sparse_coo_tensor([[5]], [1.0], (2,), check_invariants=True)

# %% sparse_lengths: RuntimeError
torch.sparse_coo_tensor([[0, 1]], [1.0], (2,))

# %% sparse_view: NotImplementedError
torch.eye(2).to_sparse().view(4)

# %% quantize_scale: RuntimeError
torch.quantize_per_tensor(torch.arange(3), 0.1, 0, torch.quint8)

# %% quantize_dtype: RuntimeError
torch.quantize_per_tensor(a, 0.1, 0, torch.float16)

# %% nested_sizes: RuntimeError
torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]).size()[5]

# %% distribution_scale: ValueError
torch.distributions.Normal(0.0, -1.0, validate_args=True)

# %% distribution_probability: ValueError
torch.distributions.Bernoulli(probs=1.5, validate_args=True)

# %% distribution_support: ValueError
torch.distributions.Beta(1.0, 1.0, validate_args=True).log_prob(torch.tensor(2.0))

# %% distribution_pair: NotImplementedError
normal = torch.distributions.Normal(0.0, 1.0)
torch.distributions.kl_divergence(normal, torch.distributions.Poisson(1.0))

# %% jit_of_a_generator: UnsupportedNodeError
@torch.jit.script
def count(n: int):
    yield n

# %% jit_types: RuntimeError
program = "def add(a: int, b: str) -> int:\n    return a + b\n"
torch.jit.CompilationUnit(program)

# %% jit_parse: RuntimeError
torch.jit.CompilationUnit("def broken(x) -> Tensor\n    return x")

# %% fx_of_a_condition: TraceError
class Gate(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
torch.fx.symbolic_trace(Gate())

# %% export_of_a_function: ValueError
torch.export.export(len, (a,))

# %% compile_backend: InvalidBackend
torch.compile(lambda x: x + 1, backend="no-such-backend")(a)

# %% compile_full_graph: Unsupported
def speak(x):
    print("hello")
    return x
torch.compile(speak, backend="eager", fullgraph=True)(a)

# %% vmap_of_scalars: ValueError
torch.vmap(torch.sin)(torch.tensor(1.0))

# %% vmap_sizes: ValueError
torch.vmap(torch.add)(torch.ones(2), torch.ones(3))

# %% functional_grad: RuntimeError
torch.func.grad(lambda x: x)(a)

# %% operator_unknown: AttributeError
torch.ops.mine.no_such_operator(a)

# %% library_of_operators: OSError
torch.ops.load_library("libmine.so")

# %% conv_groups: ValueError
nn.Conv2d(3, 4, 3, groups=2)

# %% conv_padding: ValueError
nn.Conv2d(3, 4, 3, stride=2, padding="same")

# %% pool_padding: RuntimeError
F.max_pool2d(torch.ones(1, 1, 4, 4), 2, padding=3)

# %% upsample_both: ValueError
F.interpolate(torch.ones(1, 1, 4, 4), size=2, scale_factor=2)

# %% upsample_mode: NotImplementedError
F.interpolate(torch.ones(1, 1, 4, 4), size=2, mode="trilinear")

# %% pad_reflection: RuntimeError
F.pad(torch.ones(1, 1, 2, 2), (5, 5, 5, 5), mode="reflect")

# %% dropout_probability: ValueError
nn.Dropout(1.5)

# %% attention_heads: AssertionError
nn.MultiheadAttention(10, 3)

# %% near_layer_norm_shape: RuntimeError
nn.LayerNorm(5)(torch.ones(2, 4))

# %% group_norm: ValueError
nn.GroupNorm(3, 4)

# %% near_transformer_width: AssertionError
nn.TransformerEncoderLayer(4, 2, 8)(torch.ones(3, 1, 6))

# %% near_lstm_width: RuntimeError
nn.LSTM(4, 2)(torch.ones(3, 1, 6))

# %% pack_lengths: RuntimeError
nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 1), [1, 3])

# %% near_module_call: NotImplementedError
nn.Module()(a)

# %% module_attribute: AttributeError
nn.Linear(1, 1).wieght

# %% parameter_type: TypeError
nn.Linear(1, 1).weight = torch.ones(1, 1)

# %% buffer_name: KeyError
nn.Module().register_buffer("a.b", a)

# %% sequential_index: IndexError
nn.Sequential(nn.ReLU())[3]

# %% sequential_of_a_function: TypeError
nn.Sequential(torch.relu)

# %% parameter_list_key: AttributeError
nn.ParameterDict({"a": nn.Parameter(a)})["b"]

# %% tensor_dataset_sizes: AssertionError
TensorDataset(torch.ones(3), torch.ones(4))

# %% split_lengths: ValueError
random_split(range(10), [3, 3])

# %% subset_index: IndexError
Subset([1, 2, 3], [7])[0]

# %% loader_batch_size: ValueError
DataLoader([1, 2], batch_size=0)

# %% loader_shuffle_and_sampler: ValueError
DataLoader([1, 2], shuffle=True, sampler=[0, 1])

# %% loader_prefetch: ValueError
DataLoader([1, 2], prefetch_factor=2)

# %% dataset_without_items: NotImplementedError
torch.utils.data.Dataset()[0]

# %% default_dtype: TypeError
torch.set_default_dtype(torch.int32)

# %% threads_zero: RuntimeError
torch.set_num_threads(0)

# %% memory_format: RuntimeError
torch.ones(3).contiguous(memory_format=torch.channels_last)

# %% storage_resize: RuntimeError
torch.from_numpy(np.ones(3)).untyped_storage().resize_(99)

# %% from_numpy_type: TypeError
torch.from_numpy(np.array(["a"]))

# %% from_numpy_list: TypeError
torch.from_numpy([1, 2])

# %% from_dlpack: RuntimeError
torch.from_dlpack([1, 2])

# %% as_strided: RuntimeError
a.as_strided((9,), (1,))

# %% hub_source: ValueError
torch.hub.load("somewhere", "resnet18", source="moon")

# %% bincount_negative: RuntimeError
torch.bincount(torch.tensor([-1]))

# %% histogram_range: RuntimeError
torch.histc(a, bins=3, min=5, max=1)

# %% searchsorted_sizes: RuntimeError
torch.searchsorted(torch.ones(2, 3), torch.ones(3, 3))

# %% cosine_margin: ValueError
F.cosine_embedding_loss(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), reduction="middle")

# %% triplet_margin: ValueError
nn.TripletMarginLoss(margin=-1.0)

# %% close_enough: AssertionError
torch.testing.assert_close(torch.ones(2), torch.zeros(2))
